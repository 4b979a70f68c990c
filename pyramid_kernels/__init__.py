"""Fused pyramid-pooling ops for PyTorch: ASPP, PPM, SPP and the heads around them."""

from . import functional, testing
from ._version import __version__
from .backends import BackendError, explain

__all__ = ["BackendError", "__version__", "explain", "functional", "testing"]
