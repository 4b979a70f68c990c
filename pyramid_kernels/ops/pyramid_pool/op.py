"""``pyramid_pool``: every bin of a spatial pyramid in one read of the map."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...backends import Backend, Calls, Op, describe, select
from ...registration import OpFunction, Sizes, public, register_op
from .._shared.checks import check_choice, check_map, pairs
from .._shared.layout import as_cells, empty_cells, format_of, is_channels_last
from .._shared.windows import WINDOWS, grids, paired
from . import composed, reference
from .settings import Settings

OP = Op("pyramid_pool", "memory", reference, composed)

Bins = Sequence[int | tuple[int, int]]


def pyramid_grids(bins: Bins, size: tuple[int, int], windows: str = "adaptive") -> list[tuple[int, int]]:
    """The (rows, cols) grid of every level of ``pyramid_pool`` on a map of ``size`` (H, W)."""
    check_choice("windows", windows, WINDOWS)
    return grids(pairs("bins", bins), size, windows)


def bound(bins: int) -> int:
    """The first of the limits that backends have which ``bins`` keeps; comparisons alone, which tracing generalises."""
    for limit in (32, 64):
        if bins <= limit:
            return limit
    return sys.maxsize


def _problems(x: Tensor, bins: Bins, *, mode: str = "avg", windows: str = "adaptive") -> Calls:
    """Options: mode, windows, levels, bounds of a level's and of all bins on an axis."""
    levels = pairs("bins", bins)
    most = bound(max(v for level in levels for v in level))
    total = bound(max(sum(axis) for axis in zip(*levels, strict=True)))
    return [(OP, describe(x, is_channels_last(x), mode, windows, len(levels), most, total), tuple(x.shape))]


@public(_problems)
def pyramid_pool(
    x: Tensor, bins: Bins, *, mode: str = "avg", windows: str = "adaptive", backend: Backend = "auto"
) -> Tensor:
    """Pool ``x`` to every grid of a pyramid and pack the cells.

    Equivalent to ``cat([adaptive_avg_pool2d(x, b).flatten(2) for b in bins], 2)`` (``adaptive_max_pool2d`` for
    ``mode="max"``), with x read once and a deterministic backward.

    Args:
        x: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32 or float64.
        bins: one int or (rows, cols) per level.
        mode: "avg", or "max" (the first maximum takes the gradient; NaN propagates).
        windows: "adaptive" as PyTorch; "fixed": window = stride = (H//b, W//b), no padding (the grid may be larger
            than b); "ceil": window = stride = ceil(size/b) with padding, which averages count.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Returns:
        (N, C, S), S the sum of the grids' cells (see ``pyramid_grids``), levels in the order of ``bins``, each
        row-major, in x's dtype; strides (S*C, 1, C) if x is channels_last.

    Raises:
        TypeError, ValueError: naming the argument. BackendError: a named backend cannot run.

    Source: He et al., Spatial Pyramid Pooling, 2014; Zhao et al., PSPNet, 2017; Papa et al., SPEED, 2022 ("fixed").
    """
    check_map("x", x)
    check_choice("mode", mode, ("avg", "max"))
    check_choice("windows", windows, WINDOWS)
    levels = pairs("bins", bins)
    grids(levels, (x.shape[2], x.shape[3]), windows)
    backend = select(*_problems(x, levels, mode=mode, windows=windows)[0], backend)
    settings = Settings([v for level in levels for v in level], mode, windows)
    if backend in ("reference", "composed"):
        return OP.python(backend)(x, settings)
    return PyramidPool.run(x, settings, backend)[0]


class PyramidPool(OpFunction):
    op_name = "pyramid_pool"

    @staticmethod
    def forward(x: Tensor, settings: Settings, backend: str) -> tuple[Tensor, Tensor]:
        return _fwd(x, settings, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.settings, ctx.backend = inputs
        ctx.size, ctx.channels_last = x.shape[2:], is_channels_last(x)
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (indices,) = ctx.saved_tensors
        indices = as_cells(indices, ctx.channels_last)  # hooks on saved tensors may have laid them out anew
        return _bwd(dy, indices, ctx.size, ctx.channels_last, ctx.settings, ctx.backend), None, None


@register_op("pyramid_pool_fwd")
def _fwd(x: Tensor, settings: Settings, backend: str) -> Iterator[tuple[Tensor, Tensor]]:
    """The packed cells and, for "max", the flat index of each maximum (int32; empty for "avg")."""
    n, c, h, w = x.shape
    levels, last = grids(paired(settings.bins), (h, w), settings.windows), is_channels_last(x)
    s = sum(rows * cols for rows, cols in levels)
    y = empty_cells(last, x, n, c, s)
    indices = empty_cells(last, x, n if settings.mode == "max" else 0, c, s, torch.int32)
    yield y, indices
    OP.kernels(backend).forward(x, y, indices, settings)


@register_op("pyramid_pool_bwd")
def _bwd(
    dy: Tensor, indices: Tensor, size: Sizes, channels_last: bool, settings: Settings, backend: str
) -> Iterator[Tensor]:
    shape = (*dy.shape[:2], *size)
    dx = torch.empty(shape, dtype=dy.dtype, device=dy.device, memory_format=format_of(channels_last))
    yield dx
    OP.kernels(backend).backward(as_cells(dy, channels_last), indices, dx, settings)
