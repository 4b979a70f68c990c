"""Whole networks made of pyramid modules, each fused or in plain PyTorch, with one ``state_dict``."""

from .base import Network, backbone

__all__ = ["Network", "backbone"]
