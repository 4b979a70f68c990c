"""Triton ``max_pool_pyramid``.

Forward: a program owns some pixels of one level and walks through their windows, row by row. Backward: each pixel
gathers from the windows that chose it, level by level: no atomics. A cascade takes a launch per pool.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...backends import Problem
from .._shared.launch import launch
from .._shared.layout import empty_map, is_channels_last
from .._shared.precision import accumulation
from .._shared.triton import accumulator, cannot_launch, tile
from .settings import Settings

#: Of a program's block: with two addresses per element of the backward, 1024 spill. Without a bound on registers ptxas
#: spills these, too, for occupancy's sake.
ELEMENTS = 512


def supports(problem: Problem) -> str | None:
    return problem.options[0] or cannot_launch(problem)


@triton.jit
def block(shape, BP: tl.constexpr, BC: tl.constexpr):
    """Image, pixels [BP, 1] and channels [1, BC] of this program."""
    tiles = tl.cdiv(shape[1] * shape[2], BP)
    p = tl.program_id(0) % tiles * BP + tl.arange(0, BP)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    return (tl.program_id(0) // tiles).to(tl.int64), p[:, None], channel[None, :].to(tl.int64)


@triton.jit
def at(n, channel, y, x, strides):
    """Offsets of pixels (y, x); their strides are wide enough for maps of 2^31 elements."""
    return n * strides[0] + channel * strides[1] + y.to(tl.int64) * strides[2] + x.to(tl.int64) * strides[3]


@triton.jit
def max_pool_pyramid_fwd_kernel(
    p_x, p_copy, p_y, p_index, shape, x_strides, y_strides, index_strides, y_step, index_step,
    SIZES: tl.constexpr, KEEP: tl.constexpr, COPY: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program owns one level of BP pixels and BC channels; levels of y and index are ``step`` apart."""
    n, p, channel = block(shape, BP, BC)
    y, x = p // shape[2], p % shape[2]
    level = (len(SIZES) - 1 - tl.program_id(2)).to(tl.int64)  # the widest windows first
    k = SIZES[0]
    for i in tl.static_range(1, len(SIZES)):
        k = tl.where(level == i, SIZES[i], k)
    m = (p < shape[1] * shape[2]) & (channel < shape[0])
    best = accumulator(p_x, BP, BC, float("-inf"))
    index = tl.full([BP, BC], -1, tl.int32)
    p_x += at(n, channel, y, x, x_strides)
    for i in range(0, k):
        m_row = m & (y + i >= k // 2) & (y + i - k // 2 < shape[1])
        for j in range(0, k):
            inside = m_row & (x + j >= k // 2) & (x + j - k // 2 < shape[2])
            away = (i - k // 2) * x_strides[2] + (j - k // 2) * x_strides[3]
            v = tl.load(p_x + away, inside, 0.0).to(best.dtype)  # [BP, BC]
            take = inside & ((v > best) | (v != v) | (index < 0))
            best = tl.where(take, v, best)
            index = tl.where(take, i * k + j, index)
    out = at(n, channel, y, x, y_strides)
    tl.store(p_y + level * y_step + out, best.to(p_y.dtype.element_ty), m)
    if KEEP:
        tl.store(p_index + level * index_step + at(n, channel, y, x, index_strides), index.to(tl.uint8), m)
    if COPY:
        if level == 0:
            tl.store(p_copy + out, tl.load(p_x, m, 0.0), m)


@triton.jit
def max_pool_pyramid_bwd_dx_kernel(
    p_base, p_dy, p_index, p_dx, shape, base_strides, dy_strides, index_strides, dx_strides, dy_step, index_step,
    SIZES: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program owns BP pixels and BC channels: ``base`` plus what every level's windows bring."""
    n, p, channel = block(shape, BP, BC)
    y, x = p // shape[2], p % shape[2]
    m = (p < shape[1] * shape[2]) & (channel < shape[0])
    acc = accumulator(p_dx, BP, BC, 0.0)
    acc += tl.load(p_base + at(n, channel, y, x, base_strides), m, 0.0).to(acc.dtype)
    p_dy += at(n, channel, y, x, dy_strides)
    p_index += at(n, channel, y, x, index_strides)
    for level in tl.static_range(len(SIZES)):
        k = SIZES[level]
        for i in range(0, k):
            # Those windows in whose row i and column j this pixel lies.
            m_row = m & (y + k // 2 >= i) & (y + k // 2 - i < shape[1])
            for j in range(0, k):
                inside = m_row & (x + k // 2 >= j) & (x + k // 2 - j < shape[2])
                up, left = k // 2 - i, k // 2 - j
                place = tl.load(p_index + up * index_strides[2] + left * index_strides[3], inside, 255)
                mine = inside & (place == i * k + j)
                acc += tl.load(p_dy + up * dy_strides[2] + left * dy_strides[3], mine, 0.0).to(acc.dtype)  # [BP, BC]
        p_dy += dy_step
        p_index += index_step
    tl.store(p_dx + at(n, channel, y, x, dx_strides), acc.to(p_dx.dtype.element_ty), m)


def _parts(t: Tensor, count: int, order: str = "ascending") -> list[Tensor]:
    """The ``count`` maps side by side in ``t``, the narrowest window's first."""
    return list(t.chunk(count, 1))[:: -1 if order == "descending" else 1]


def _step(first: Tensor, second: Tensor) -> int:
    return int(second.storage_offset() - first.storage_offset())


def forward(x: Tensor, y: Tensor, indices: Tensor | None, settings: Settings) -> None:
    """Fill ``y`` and, where given, ``indices``."""
    kernel_sizes, cascade, order = settings
    count = len(kernel_sizes)
    maps = _parts(y, 1 + count, order)
    kept = maps[1:] if indices is None else _parts(indices, count)
    n, *shape = x.shape
    bp, bc = tile(is_channels_last(x), shape[0], shape[1] * shape[2], ELEMENTS)
    grid = (n * triton.cdiv(shape[1] * shape[2], bp), triton.cdiv(shape[0], bc))
    for level, sizes in enumerate([(k,) for k in kernel_sizes] if cascade else [tuple(kernel_sizes)]):
        source = maps[level] if level else x
        steps = (_step(maps[0], maps[1]), _step(kept[0], kept[1]) if count > 1 else 0)
        launch(
            max_pool_pyramid_fwd_kernel, (*grid, len(sizes)), x,
            source, maps[0], maps[level + 1], kept[level], tuple(shape),
            source.stride(), y.stride(), kept[0].stride(), *steps,
            SIZES=sizes, KEEP=indices is not None, COPY=level == 0, BP=bp, BC=bc, maxnreg=255,
        )  # fmt: skip


def backward(dy: Tensor, indices: Tensor, dx: Tensor, settings: Settings) -> None:
    """Fill ``dx`` from ``dy``, of any strides."""
    kernel_sizes, cascade, order = settings
    count = len(kernel_sizes)
    dys, kept = _parts(dy, 1 + count, order), _parts(indices, count)
    steps = (_step(dys[0], dys[1]), _step(kept[0], kept[1]) if count > 1 else 0)
    if not cascade:
        _gather(dys[0], dys[1], kept[0], dx, tuple(kernel_sizes), *steps)
        return
    gradient = dys[-1]
    for level in reversed(range(count)):
        target = empty_map(dx, dx.shape, accumulation(dx)) if level else dx
        _gather(dys[level], gradient, kept[level], target, (kernel_sizes[level],), *steps)
        gradient = target


def _gather(
    base: Tensor, dy: Tensor, indices: Tensor, dx: Tensor, sizes: tuple[int, ...], dy_step: int, index_step: int
) -> None:
    """dx = base + what the windows of levels, from those of ``dy`` and ``indices`` on, bring."""
    n, *shape = dx.shape
    bp, bc = tile(is_channels_last(dx), shape[0], shape[1] * shape[2], ELEMENTS)
    launch(
        max_pool_pyramid_bwd_dx_kernel, (n * triton.cdiv(shape[1] * shape[2], bp), triton.cdiv(shape[0], bc)), base,
        base, dy, indices, dx, tuple(shape), base.stride(), dy.stride(), indices.stride(), dx.stride(),
        dy_step, index_step, SIZES=sizes, BP=bp, BC=bc, maxnreg=255,
    )  # fmt: skip
