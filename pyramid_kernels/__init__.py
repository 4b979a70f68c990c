"""Fused pyramid-pooling ops for PyTorch: ASPP, PPM, SPP and the heads around them."""

from . import functional, models, nn, testing
from ._version import __version__
from .backends import BackendError, explain
from .benchmark.compare import Comparison, compare
from .fuse import FuseError, FuseReport, freeze_, fuse_, fused, register_adapter, unfreeze_, unfuse_
from .graph.api import compile, fuse_graph
from .inference import predict

__all__ = [
    "BackendError",
    "Comparison",
    "FuseError",
    "FuseReport",
    "__version__",
    "compare",
    "compile",
    "explain",
    "freeze_",
    "functional",
    "fuse_",
    "fuse_graph",
    "fused",
    "models",
    "nn",
    "predict",
    "register_adapter",
    "testing",
    "unfreeze_",
    "unfuse_",
]
