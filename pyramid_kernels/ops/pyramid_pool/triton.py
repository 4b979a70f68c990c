"""Triton ``pyramid_pool``.

Forward: the window edges of all levels cut the map into rectangles that no edge crosses. Kernel one reduces each
rectangle once, so x is read once whatever the bins; kernel two combines the rectangles of each cell, in fixed order.
Backward: each pixel gathers from the cells whose windows hold it: no atomics, no zero fill.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...backends import Problem
from .._shared.launch import launch
from .._shared.layout import is_channels_last
from .._shared.precision import accumulation
from .._shared.triton import accumulator, cannot_launch, divided, tile
from .._shared.windows import axis_windows
from .settings import Settings

#: Edges along one axis are sorted in registers: at most two per bin, and one per band.
MAX_LEVELS, MAX_EDGES = 8, 64
#: Rectangles are cut further, into bands of at least BAND rows, until about this many programs run.
PROGRAMS, BAND = 512, 8
FAR: tl.constexpr = tl.constexpr(2**31 - 1)


def supports(problem: Problem) -> str | None:
    if problem.options[2] > MAX_LEVELS:
        return f"at most {MAX_LEVELS} levels, got {problem.options[2]}"
    # Two edges per bin: "fixed" may give twice as many windows as bins, but these share their edges.
    if problem.options[-1] > MAX_EDGES // 2:
        return f"at most {MAX_EDGES // 2} bins along an axis, all levels together"
    return cannot_launch(problem)


@triton.jit
def axis(b, size, WINDOWS: tl.constexpr):
    """(count, step, lead, tail, den) of ``b`` bins along an axis: the formula of ``_shared/windows.py``."""
    if WINDOWS == "adaptive":
        return b, size, 0, b - 1, b
    elif WINDOWS == "fixed":
        step = size // b
        return size // step, step, 0, 0, 1
    else:
        step = (size + b - 1) // b
        pad = (step * b - size + 1) // 2
        return (size + 2 * pad - step) // step + 1, step, -pad, -pad, 1


@triton.jit
def edges(BINS: tl.constexpr, AXIS: tl.constexpr, size, splits, WINDOWS: tl.constexpr, BE: tl.constexpr):
    """Every window edge along one axis, unsorted, FAR where unused or repeated: [BE]."""
    r = tl.arange(0, BE)
    edge = tl.where(r < splits, r * size // tl.maximum(splits, 1), FAR)
    base = splits
    for level in tl.static_range(len(BINS) // 2):
        count, step, lead, tail, den = axis(BINS[2 * level + AXIS], size, WINDOWS)
        i = r - base
        if WINDOWS == "fixed":  # each window ends where the next begins
            edge = tl.where((i >= 0) & (i <= count), i * step, edge)
            base += count + 1
        else:
            start = tl.maximum(i * step + lead, 0) // den
            end = tl.minimum(((i - count + 1) * step + tail) // den, size)
            edge = tl.where((i >= 0) & (i < count), start, edge)
            edge = tl.where((i >= count) & (i < 2 * count), end, edge)
            base += 2 * count
    repeated = (edge[None, :] == edge[:, None]) & (r[None, :] < r[:, None])
    return tl.where(tl.max(repeated.to(tl.int32), 1) > 0, FAR, edge)


@triton.jit
def rank(edge, position):
    """How many edges lie before ``position``."""
    return tl.sum((edge < position).to(tl.int32), 0)


@triton.jit
def nth(edge, u):
    """The u-th smallest edge."""
    order = tl.sum((edge[None, :] < edge[:, None]).to(tl.int32), 1)
    return tl.min(tl.where(order == u, edge, FAR), 0)


@triton.jit
def first_max(best, index):
    """Maximum over dimension 0 and the smallest index that attains it; a NaN wins, the last one, as in PyTorch."""
    nan = best != best
    any_nan = tl.max(nan.to(tl.int32), 0) > 0
    top = tl.max(tl.where(nan, float("-inf"), best), 0)
    first = tl.min(tl.where(best == top[None, :], index, FAR), 0)
    last_nan = tl.max(tl.where(nan, index, -1), 0)
    return tl.where(any_nan, float("nan"), top), tl.where(any_nan, last_nan, first)


@triton.jit
def pyramid_pool_fwd_kernel(
    p_x, p_part, p_part_index, c, h, w, sn, sc, sh, sw, splits, u_rows, u_cols,
    BINS: tl.constexpr, WINDOWS: tl.constexpr, MAX: tl.constexpr,
    BR: tl.constexpr, BQ: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program owns one rectangle of one image and BC channels: part[n, row, col, c]."""
    u = tl.program_id(0) % (u_rows * u_cols)
    n = (tl.program_id(0) // (u_rows * u_cols)).to(tl.int64)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    edge_h = edges(BINS, 0, h, splits, WINDOWS, BR)
    edge_w = edges(BINS, 1, w, 0, WINDOWS, BQ)
    y0, y1 = nth(edge_h, u // u_cols), nth(edge_h, u // u_cols + 1)
    x0, x1 = nth(edge_w, u % u_cols), nth(edge_w, u % u_cols + 1)
    width = x1 - x0
    pixels = (y1 - y0) * width
    acc = accumulator(p_x, BP, BC, float("-inf") if MAX else 0.0)
    index = tl.full([BP, BC], FAR, tl.int32)
    for start in range(0, pixels, BP):
        p = start + tl.arange(0, BP)
        y, x = y0 + p // width, x0 + p % width
        m = (p < pixels)[:, None] & (channel < c)[None, :]
        offset = y.to(tl.int64)[:, None] * sh + x.to(tl.int64)[:, None] * sw + channel.to(tl.int64)[None, :] * sc
        b_x = tl.load(p_x + n * sn + offset, m, 0.0).to(acc.dtype)  # [BP, BC]
        if MAX:
            take = m & ((b_x > acc) | (b_x != b_x) | (index == FAR))
            acc = tl.where(take, b_x, acc)
            index = tl.where(take, (y * w + x)[:, None], index)
        else:
            acc += b_x
    out = ((n * u_rows * u_cols) + u) * c + channel
    if MAX:
        best, where = first_max(acc, index)
        tl.store(p_part + out, best, channel < c)
        tl.store(p_part_index + out, where, channel < c)
    else:
        tl.store(p_part + out, tl.sum(acc, 0), channel < c)


@triton.jit
def cell_windows(s, h, w, BINS: tl.constexpr, WINDOWS: tl.constexpr):
    """Window [y0, y1) x [x0, x1) of packed cell ``s`` and what its average divides by."""
    y0, y1, x0, x1, area = 0, 0, 0, 0, 1
    base = 0
    for level in tl.static_range(len(BINS) // 2):
        rows, step_h, lead_h, tail_h, den_h = axis(BINS[2 * level], h, WINDOWS)
        cols, step_w, lead_w, tail_w, den_w = axis(BINS[2 * level + 1], w, WINDOWS)
        i, j = (s - base) // cols, (s - base) % cols
        if (s >= base) & (s < base + rows * cols):
            y0, y1 = tl.maximum(i * step_h + lead_h, 0) // den_h, tl.minimum(((i + 1) * step_h + tail_h) // den_h, h)
            x0, x1 = tl.maximum(j * step_w + lead_w, 0) // den_w, tl.minimum(((j + 1) * step_w + tail_w) // den_w, w)
            area = step_h * step_w if WINDOWS == "ceil" else (y1 - y0) * (x1 - x0)
        base += rows * cols
    return y0, y1, x0, x1, area


@triton.jit
def pyramid_pool_merge_kernel(
    p_part, p_part_index, p_y, p_index, c, h, w, cells, sn, sc, ss, splits, u_rows, u_cols,
    BINS: tl.constexpr, WINDOWS: tl.constexpr, MAX: tl.constexpr,
    BR: tl.constexpr, BQ: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program owns one packed cell of one image and BC channels: rectangles in row-major order."""
    s = tl.program_id(0) % cells
    n = (tl.program_id(0) // cells).to(tl.int64)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    edge_h = edges(BINS, 0, h, splits, WINDOWS, BR)
    edge_w = edges(BINS, 1, w, 0, WINDOWS, BQ)
    y0, y1, x0, x1, area = cell_windows(s, h, w, BINS, WINDOWS)
    r0, q0 = rank(edge_h, y0), rank(edge_w, x0)
    cols = rank(edge_w, x1) - q0
    parts = (rank(edge_h, y1) - r0) * cols
    acc = accumulator(p_part, BP, BC, float("-inf") if MAX else 0.0)
    index = tl.full([BP, BC], FAR, tl.int32)
    for start in range(0, parts, BP):
        p = start + tl.arange(0, BP)
        u = (r0 + p // cols) * u_cols + q0 + p % cols
        m = (p < parts)[:, None] & (channel < c)[None, :]
        offset = (n * u_rows * u_cols + u)[:, None] * c + channel[None, :]
        b_part = tl.load(p_part + offset, m, float("-inf") if MAX else 0.0)  # [BP, BC]
        if MAX:
            b_index = tl.load(p_part_index + offset, m, FAR)
            take = (b_part > acc) | (b_part != b_part) | ((b_part == acc) & (b_index < index))
            acc = tl.where(take, b_part, acc)
            index = tl.where(take, b_index, index)
        else:
            acc += b_part
    out = n * sn + channel.to(tl.int64) * sc + s * ss
    if MAX:
        best, where = first_max(acc, index)
        tl.store(p_y + out, best.to(p_y.dtype.element_ty), channel < c)
        tl.store(p_index + out, where, channel < c)
    else:
        tl.store(p_y + out, divided(tl.sum(acc, 0), area).to(p_y.dtype.element_ty), channel < c)


@triton.jit
def holding(p, count, step, lead, tail, den):
    """First and last window that hold position ``p`` (last < first where none does)."""
    first = ((p + 1) * den - tail + step - 1) // step - 1
    last = ((p + 1) * den - 1 - lead) // step
    return tl.maximum(first, 0), tl.minimum(last, count - 1)


@triton.jit
def pyramid_pool_bwd_dx_kernel(
    p_dy, p_index, p_dx, c, h, w, sn, sc, sh, sw, gn, gc, gs,
    BINS: tl.constexpr, WINDOWS: tl.constexpr, MAX: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program owns BP pixels of one image and BC channels of dx, and gathers from every cell that holds them."""
    tiles = tl.cdiv(h * w, BP)
    p = (tl.program_id(0) % tiles) * BP + tl.arange(0, BP)
    n = (tl.program_id(0) // tiles).to(tl.int64)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    y, x = p // w, p % w
    acc = accumulator(p_dy, BP, BC, 0.0)
    base = 0
    for level in tl.static_range(len(BINS) // 2):
        rows, step_h, lead_h, tail_h, den_h = axis(BINS[2 * level], h, WINDOWS)
        cols, step_w, lead_w, tail_w, den_w = axis(BINS[2 * level + 1], w, WINDOWS)
        i0, i1 = holding(y, rows, step_h, lead_h, tail_h, den_h)
        j0, j1 = holding(x, cols, step_w, lead_w, tail_w, den_w)
        for di in range(0, tl.max(i1 - i0, 0) + 1):
            i = i0 + di
            height = tl.minimum(((i + 1) * step_h + tail_h) // den_h, h) - tl.maximum(i * step_h + lead_h, 0) // den_h
            for dj in range(0, tl.max(j1 - j0, 0) + 1):
                j = j0 + dj
                m = ((p < h * w) & (i <= i1) & (j <= j1))[:, None] & (channel < c)[None, :]
                s = base + i * cols + j
                offset = n * gn + channel.to(tl.int64)[None, :] * gc + s[:, None] * gs
                b_dy = tl.load(p_dy + offset, m, 0.0).to(acc.dtype)  # [BP, BC]
                if MAX:
                    acc += tl.where(tl.load(p_index + offset, m, -1) == p[:, None], b_dy, 0.0)
                elif WINDOWS == "ceil":
                    acc += divided(b_dy, step_h * step_w)
                else:
                    end = tl.minimum(((j + 1) * step_w + tail_w) // den_w, w)
                    area = height * (end - tl.maximum(j * step_w + lead_w, 0) // den_w)
                    acc += divided(b_dy, tl.maximum(area, 1)[:, None])
        base += rows * cols
    offset = n * sn + y.to(tl.int64)[:, None] * sh + x.to(tl.int64)[:, None] * sw + channel.to(tl.int64)[None, :] * sc
    tl.store(p_dx + offset, acc.to(p_dx.dtype.element_ty), (p < h * w)[:, None] & (channel < c)[None, :])


@functools.lru_cache(maxsize=1024)
def rectangles(bins: tuple[int, ...], size: int, windows: str, splits: int) -> tuple[int, int]:
    """How many intervals the edges of one axis leave, and the power of two that holds all edges before sorting."""
    axes = [axis_windows(b, size, windows) for b in bins]
    found = {r * size // splits for r in range(splits)}
    found |= {edge for a in axes for i in range(a.count) for edge in (a.start(i), a.end(i))}
    slots = splits + sum(a.count + 1 if windows == "fixed" else 2 * a.count for a in axes)
    return len(found) - 1, triton.next_power_of_2(slots)


def forward(x: Tensor, y: Tensor, indices: Tensor, settings: Settings) -> None:
    """Fill ``y`` (N, C, S) and, for "max", ``indices``."""
    n, c, h, w = x.shape
    bins, mode, windows = settings
    rows, cols = tuple(bins[::2]), tuple(bins[1::2])
    u_cols, bq = rectangles(cols, w, windows, 0)
    bp, bc = tile(is_channels_last(x), c, h * w // 4)
    c_tiles = triton.cdiv(c, bc)
    programs = max(1, n * c_tiles * rectangles(rows, h, windows, 0)[0] * u_cols)
    bands = min(h // BAND, MAX_EDGES - 2 * sum(rows))
    splits = 0 if programs >= PROGRAMS else max(0, min(triton.cdiv(PROGRAMS, programs), bands))
    u_rows, br = rectangles(rows, h, windows, splits)
    part = torch.empty((n, u_rows * u_cols, c), dtype=accumulation(x), device=x.device)
    part_index = torch.empty(part.shape if mode == "max" else (0,), dtype=torch.int32, device=x.device)
    meta = {"BINS": tuple(bins), "WINDOWS": windows, "MAX": mode == "max", "BR": br, "BQ": bq}
    grid = (n * u_rows * u_cols, c_tiles)
    shape = (c, h, w)
    launch(
        pyramid_pool_fwd_kernel, grid, x,
        x, part, part_index, *shape, *x.stride(), splits, u_rows, u_cols, **meta, BP=bp, BC=bc,
    )  # fmt: skip
    bp, bc = tile(True, c, u_rows * u_cols)
    launch(
        pyramid_pool_merge_kernel, (n * y.shape[2], triton.cdiv(c, bc)), x,
        part, part_index, y, indices, *shape, y.shape[2], *y.stride(), splits, u_rows, u_cols, **meta, BP=bp, BC=bc,
    )  # fmt: skip


def backward(dy: Tensor, indices: Tensor, dx: Tensor, settings: Settings) -> None:
    """Fill ``dx`` (N, C, H, W) from ``dy`` (N, C, S), which has the strides of ``indices``."""
    n, c, h, w = dx.shape
    bins, mode, windows = settings
    # Float64 takes two registers per element, each level a few; without a bound, ptxas spills for occupancy's sake.
    large = dx.dtype == torch.float64 or len(bins) > 8
    bp, bc = tile(dx.stride(1) == 1, c, h * w, 1024 if large else 2048)
    launch(
        pyramid_pool_bwd_dx_kernel, (n * triton.cdiv(h * w, bp), triton.cdiv(c, bc)), dx,
        dy, indices, dx, c, h, w, *dx.stride(), *dy.stride(),
        BINS=tuple(bins), WINDOWS=windows, MAX=mode == "max", BP=bp, BC=bc,
        maxnreg=255,
    )  # fmt: skip
