"""CUDA ``separable_pyramid``: fills the native calls of csrc/separable_pyramid, between other ops' calls."""

from __future__ import annotations

from torch import Tensor

from ...backends import Problem
from .._shared.native import call, packed, pointer
from ..pyramid_pool import cuda as pool
from ..pyramid_project import cuda as project
from ..upsample_merge import cuda as merge

__all__ = ["launch_ddepthwise", "launch_depthwise", "merge", "pool", "project", "supports"]

Levels = list[tuple[int, int]]


def supports(problem: Problem) -> str | None:
    return pool.supports(problem)


def launch_depthwise(x: Tensor, weights: list[Tensor], y: Tensor, levels: Levels, turned: bool) -> None:
    """Fill ``y`` (N, C, S): every level of ``x`` (N, C, S) by its own (C, 1, 3, 3) kernels, or these ``turned``."""
    call(
        "separable_pyramid_depthwise", x,
        list(x.shape[:2]), _levels(levels, weights), packed(x), packed(y), turned,
    )  # fmt: skip


def launch_ddepthwise(dy: Tensor, x: Tensor, dweights: list[Tensor], levels: Levels) -> None:
    """Fill ``dweights``, one (C, 1, 3, 3) per level, from ``dy`` and ``x`` (N, C, S)."""
    sizes = list(x.shape[:2])
    call("separable_pyramid_bwd_ddepthwise", dy, sizes, _levels(levels, dweights), packed(dy), packed(x))


def _levels(levels: Levels, weights: list[Tensor]) -> list[list[int]]:
    """Per level: rows, columns, address and strides (channel, row, column) of the weight."""
    return [
        [rows, cols, pointer(w), w.stride(0), w.stride(2), w.stride(3)]
        for (rows, cols), w in zip(levels, weights, strict=True)
    ]
