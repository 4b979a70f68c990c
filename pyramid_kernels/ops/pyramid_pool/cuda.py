"""CUDA ``pyramid_pool``: fills the native calls of csrc/pyramid_pool."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.native import DTYPES, call, cannot_launch, core, multiprocessors, pointer
from .._shared.precision import accumulation
from .._shared.windows import WINDOWS

#: As csrc/pyramid_pool/pyramid_pool.h has them.
MAX_LEVELS, MAX_BINS = 8, 64

Levels = list[tuple[int, int]]


def supports(problem: Problem) -> str | None:
    levels, most, _ = problem.options[2:]
    if levels > MAX_LEVELS:
        return f"at most {MAX_LEVELS} levels, got {levels}"
    if most > MAX_BINS:
        return f"at most {MAX_BINS} bins per level along an axis"
    return cannot_launch(problem)


def pyramid(bins: Levels, mode: str, windows: str, device: torch.device) -> list[int]:
    """The pyramid as native calls take it."""
    return [WINDOWS.index(windows), mode == "max", multiprocessors(device), *(v for level in bins for v in level)]


@functools.lru_cache(maxsize=1024)
def parts(device: str, dtype: torch.dtype, pooled: tuple[int, ...], pyramid: tuple[int, ...]) -> int:
    """How many partial results a forward pass keeps between two launches; 0 where one launch does it all.

    ``pooled``: shape and strides of the map.
    """
    count: int = core(device).pyramid_pool_parts(DTYPES[dtype], list(pooled), list(pyramid))
    return count


def forward(x: Tensor, y: Tensor, indices: Tensor, bins: Levels, mode: str, windows: str) -> None:
    """Fill ``y`` (N, C, S) and, for "max", ``indices``."""
    pooled, levels = (*x.shape, *x.stride()), pyramid(bins, mode, windows, x.device)
    kept = places = None
    if count := parts(x.device.type, x.dtype, pooled, tuple(levels)):
        kept = torch.empty(count, dtype=accumulation(x), device=x.device)
        places = torch.empty(count if mode == "max" else 0, dtype=torch.int32, device=x.device)
    call("pyramid_pool_fwd", x, list(pooled), levels, list(y.stride()), *map(pointer, (x, y, indices, kept, places)))


def backward(dy: Tensor, indices: Tensor, dx: Tensor, bins: Levels, mode: str, windows: str) -> None:
    """Fill ``dx`` (N, C, H, W) from ``dy`` (N, C, S), which has the strides of ``indices``."""
    levels = pyramid(bins, mode, windows, dx.device)
    strides = list(dy.stride())
    call("pyramid_pool_bwd", dx, [*dx.shape, *dx.stride()], levels, strides, *map(pointer, (dy, indices, dx)))
