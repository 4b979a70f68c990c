"""Triton ``separable_pyramid``: the depthwise convolutions of all levels in one launch, between other ops' kernels.

The rows of level l are its cells of all images, as in ``pyramid_project``. The gradient of the cells is the same
convolution with every kernel turned by half a turn; that of a kernel's tap is a sum over rows, in fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...backends import Problem
from .._shared.blocks import fit
from .._shared.launch import launch
from ..pyramid_pool import triton as pool
from ..pyramid_project import triton as project
from ..pyramid_project.triton import before, rows
from ..upsample_merge import triton as merge

__all__ = ["launch_ddepthwise", "launch_depthwise", "merge", "pool", "project", "supports"]

Levels = list[tuple[int, int]]


def supports(problem: Problem) -> str | None:
    return pool.supports(problem) or project.supports(problem)


@triton.jit
def neighbour(p_x, n, s, channel, m, down, right, cells, cols, strides):
    """The cell ``down`` rows and ``right`` columns from each cell ``s``, zero outside the grid. [BM, BN]"""
    row, col = s // cols + down, s % cols + right
    m = m & ((row >= 0) & (row * cols < cells) & (col >= 0) & (col < cols))[:, None]
    at = n[:, None] * strides[0] + (row * cols + col)[:, None] * strides[2]
    return tl.load(p_x + at + channel.to(tl.int64)[None, :] * strides[1], m, 0.0).to(tl.float32)


@triton.jit
def separable_pyramid_depthwise_kernel(
    p_x, p_weights, p_y, images, c, cells, cols, x_strides, w_strides, y_strides,
    TURNED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One program owns BM rows and BN channels of one level; the programs of all levels stand in one row."""
    u = tl.program_id(0)
    blocks = tl.cdiv(c, BN)
    for i in tl.static_range(len(p_weights)):
        tiles = tl.cdiv(images * cells[i], BM) * blocks
        if (u >= 0) & (u < tiles):
            n, s, m_r = rows(u // blocks * BM, images, cells[i], BM)
            channel = u % blocks * BN + tl.arange(0, BN)
            m = m_r[:, None] & (channel < c)[None, :]
            p_level = p_x + before(cells, i) * x_strides[2]
            p_w = p_weights[i] + channel.to(tl.int64) * w_strides[i][0]
            acc = tl.zeros([BM, BN], tl.float32)
            for t in tl.static_range(9):
                tap = 8 - t if TURNED else t
                b_w = tl.load(p_w + tap // 3 * w_strides[i][1] + tap % 3 * w_strides[i][2], channel < c, 0.0)
                b_x = neighbour(p_level, n, s, channel, m, t // 3 - 1, t % 3 - 1, cells[i], cols[i], x_strides)
                acc += b_w.to(tl.float32)[None, :] * b_x
            out = n[:, None] * y_strides[0] + (before(cells, i) + s)[:, None] * y_strides[2]
            out += channel.to(tl.int64)[None, :] * y_strides[1]
            tl.store(p_y + out, acc.to(p_y.dtype.element_ty), m)
        u -= tiles


@triton.jit
def separable_pyramid_bwd_ddepthwise_kernel(
    p_dy, p_x, p_dweights, images, c, cells, cols, strides, w_strides, BM: tl.constexpr, BN: tl.constexpr
):
    """One program owns one tap of one level's kernel and BN channels; it adds the level's rows in order."""
    u = tl.program_id(0)
    tiles = 9 * tl.cdiv(c, BN)
    for i in tl.static_range(len(p_dweights)):
        if (u >= 0) & (u < tiles):
            tap, channel = u % 9, u // 9 * BN + tl.arange(0, BN)
            first = before(cells, i) * strides[2]
            acc = tl.zeros([BM, BN], tl.float32)
            for start in range(0, images * cells[i], BM):
                n, s, m_r = rows(start, images, cells[i], BM)
                m = m_r[:, None] & (channel < c)[None, :]
                b_dy = neighbour(p_dy + first, n, s, channel, m, 0, 0, cells[i], cols[i], strides)
                down, right = tap // 3 - 1, tap % 3 - 1
                b_x = neighbour(p_x + first, n, s, channel, m, down, right, cells[i], cols[i], strides)
                acc += b_dy * b_x
            out = channel.to(tl.int64) * w_strides[i][0] + tap // 3 * w_strides[i][1] + tap % 3 * w_strides[i][2]
            tl.store(p_dweights[i] + out, tl.sum(acc, 0).to(p_dweights[i].dtype.element_ty), channel < c)
        u -= tiles


def _levels(levels: Levels) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cells and columns of every level."""
    return tuple(rows * cols for rows, cols in levels), tuple(cols for _, cols in levels)


def _tap_strides(weights: list[Tensor]) -> tuple[tuple[int, int, int], ...]:
    """Strides of channel, row and column."""
    return tuple((w.stride(0), w.stride(2), w.stride(3)) for w in weights)


def launch_depthwise(x: Tensor, weights: list[Tensor], y: Tensor, levels: Levels, turned: bool) -> None:
    """Fill ``y`` (N, C, S): every level of ``x`` (N, C, S) by its own (C, 1, 3, 3) kernels, or these ``turned``."""
    n, c, _ = x.shape
    cells, cols = _levels(levels)
    block = {"BM": fit(n * max(cells), 32), "BN": fit(c, 32)}
    programs = sum(triton.cdiv(n * k, block["BM"]) for k in cells) * triton.cdiv(c, block["BN"])
    launch(
        separable_pyramid_depthwise_kernel, (programs,), x,
        x, tuple(weights), y, n, c, cells, cols, x.stride(), _tap_strides(weights), y.stride(),
        TURNED=turned, **block, maxnreg=255,  # unbounded, ptxas spills for occupancy's sake
    )  # fmt: skip


def launch_ddepthwise(dy: Tensor, x: Tensor, dweights: list[Tensor], levels: Levels) -> None:
    """Fill ``dweights``, one (C, 1, 3, 3) per level, from ``dy`` and ``x`` (N, C, S), which have the same strides."""
    n, c, _ = x.shape
    cells, cols = _levels(levels)
    block = {"BM": fit(n * max(cells), 64), "BN": fit(c, 32)}
    launch(
        separable_pyramid_bwd_ddepthwise_kernel, (len(cells) * 9 * triton.cdiv(c, block["BN"]),), dy,
        dy, x, tuple(dweights), n, c, cells, cols, x.stride(), _tap_strides(dweights), **block,
    )  # fmt: skip
