"""CUDA ``separable_pyramid``: the native calls of csrc/separable_pyramid, between other ops' calls."""

from __future__ import annotations

from torch import Tensor

from .._shared.native import launch_native
from ..pyramid_pool import cuda as pool
from ..pyramid_project import cuda as project
from ..upsample_merge import cuda as merge

__all__ = ["launch_ddepthwise", "launch_depthwise", "merge", "pool", "project", "supports"]

Levels = list[tuple[int, int]]

supports = pool.supports


def launch_depthwise(x: Tensor, weights: list[Tensor], y: Tensor, levels: Levels, turned: bool) -> None:
    """Fill ``y`` (N, C, S): every level of ``x`` (N, C, S) by its own (C, 1, 3, 3) kernels, or these ``turned``."""
    launch_native("separable_pyramid_depthwise", (levels, turned), x, y, weights)


def launch_ddepthwise(dy: Tensor, x: Tensor, dweights: list[Tensor], levels: Levels) -> None:
    """Fill ``dweights``, one (C, 1, 3, 3) per level, from ``dy`` and ``x`` (N, C, S)."""
    launch_native("separable_pyramid_bwd_ddepthwise", (levels,), dy, x, dweights)
