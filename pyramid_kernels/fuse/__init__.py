"""Fusing the pyramid modules of a model in place, and exactly undoing it."""

from ..nn.aspp import ASPPForward
from ..nn.ppm import PPMForward
from .registry import register_adapter
from .report import Entry, FuseError, FuseReport
from .swap import fuse_, fused, unfuse_

__all__ = [
    "ASPPForward",
    "Entry",
    "FuseError",
    "FuseReport",
    "PPMForward",
    "fuse_",
    "fused",
    "register_adapter",
    "unfuse_",
]
