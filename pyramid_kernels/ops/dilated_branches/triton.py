"""Triton ``dilated_branches``, forward: an implicit GEMM over the live taps of every branch, in one launch.

One program owns a tile of BT x BH x BW pixels (images x rows x columns, 128 in all) and BN output channels of one
branch; a sum merge owns all branches. Its depth is taps x C: a tap whose shifted rectangle misses the map for the
whole tile is never loaded nor multiplied. Branches with more taps come first, so that light tiles fill the tail.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...backends import Problem
from .._shared.blocks import fit
from .._shared.launch import launch
from .._shared.precision import conv_precision
from .._shared.triton import cannot_launch
from .chain import first_channels
from .settings import Settings
from .triton_bwd import launch_dimage, launch_dw, launch_dx, launch_dz, launch_sums
from .triton_tiles import accumulate, branch_affine, gemm_block, pixel_tile, tile_pixels

__all__ = [
    "launch_branches", "launch_dimage", "launch_dw", "launch_dx", "launch_dz", "launch_sums", "pixel_tiles", "supports"
]  # fmt: skip


def supports(problem: Problem) -> str | None:
    return cannot_launch(problem, float64=False)


@triton.jit
def image_term(acc, p_image, image, y, x, m_row, h, w, o, m_o, o_total, kernel, dilation):
    """acc + the sum of image_bias[n, o, tap] over the taps that lie inside the map at each pixel."""
    for tap in range(0, kernel * kernel):
        dy = (tap // kernel - kernel // 2) * dilation
        dx = (tap % kernel - kernel // 2) * dilation
        m = m_row & (y + dy >= 0) & (y + dy < h) & (x + dx >= 0) & (x + dx < w)
        at = (image[:, None] * o_total + o[None, :]) * (kernel * kernel) + tap
        acc += tl.load(p_image + at, m[:, None] & m_o[None, :], 0.0).to(tl.float32)
    return acc


@triton.jit
def dilated_branches_fwd_kernel(
    p_x, weights, affine, p_image, p_y, p_z, p_part, eps, branches, n, c, h, w,
    sxn, sxh, sxw, syn, syc, syh, syw, z_total,
    RELU: tl.constexpr, SUM: tl.constexpr, STORE_Y: tl.constexpr, STORE_Z: tl.constexpr, STATS: tl.constexpr,
    PRECISION: tl.constexpr, BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """``branches``: (O, k, dilation, first channel, weight stride of o, of tap) per branch. z is channels_last."""
    BM: tl.constexpr = BT * BH * BW
    BRANCHES: tl.constexpr = len(branches) // 6
    pid = tl.program_id(0)
    tiles = tl.cdiv(n, BT) * tl.cdiv(h, BH) * tl.cdiv(w, BW)
    base = 0
    total = tl.zeros([BM, BN], tl.float32)
    for B in tl.static_range(BRANCHES):
        o_total, kernel, dilation, first = (
            branches[6 * B],
            branches[6 * B + 1],
            branches[6 * B + 2],
            branches[6 * B + 3],
        )
        o_tiles = tl.cdiv(o_total, BN)
        local = pid - base
        if (local >= 0) & (local < tiles * o_tiles):
            image, y, x, m_row, first_y, first_x = tile_pixels(local // o_tiles, n, h, w, BT, BH, BW)
            o = local % o_tiles * BN + tl.arange(0, BN)
            m_o = o < o_total
            row = image.to(tl.int64) * sxn + y.to(tl.int64) * sxh + x.to(tl.int64) * sxw
            acc = accumulate(
                tl.zeros([BM, BN], tl.float32), p_x, row, y, x, m_row, first_y, first_x, h, w, sxh, sxw,
                weights[B], 1, branches[6 * B + 4], branches[6 * B + 5], c, o.to(tl.int64), m_o, kernel, dilation,
                BH, BW, BK, PRECISION,
            )  # fmt: skip
            if p_image is not None:
                acc = image_term(acc, p_image, image, y, x, m_row, h, w, o, m_o, o_total, kernel, dilation)
            m = m_row[:, None] & m_o[None, :]
            if STORE_Z:
                pixel = (image.to(tl.int64) * h + y) * w + x
                tl.store(p_z + pixel[:, None] * z_total + (first + o)[None, :], acc.to(p_z.dtype.element_ty), m)
            if STATS:
                count = tl.sum(m_row.to(tl.float32), 0)
                mean = tl.sum(tl.where(m, acc, 0.0), 0) / count
                spread = tl.where(m, acc - mean[None, :], 0.0)
                p_channel = p_part + (local // o_tiles).to(tl.int64) * 3 * z_total + first + o
                tl.store(p_channel, mean * 0.0 + count, m_o)
                tl.store(p_channel + z_total, mean, m_o)
                tl.store(p_channel + 2 * z_total, tl.sum(spread * spread, 0), m_o)
            if STORE_Y:
                center, deviation, multiplier, offset = branch_affine(affine, eps, B, o, m_o)
                b_y = (acc - center[None, :]) * (deviation * multiplier)[None, :] + offset[None, :]
                if RELU:
                    b_y = tl.where(b_y < 0, 0.0, b_y)
                if SUM:
                    total += b_y
                if not SUM or B == BRANCHES - 1:
                    out = first * (0 if SUM else 1) + o
                    p_out = p_y + image.to(tl.int64)[:, None] * syn + out.to(tl.int64)[None, :] * syc
                    p_out += y.to(tl.int64)[:, None] * syh + x.to(tl.int64)[:, None] * syw
                    tl.store(p_out, (total if SUM else b_y).to(p_y.dtype.element_ty), m)
        if not SUM:
            base += tiles * o_tiles


def pixel_tiles(z: Tensor) -> int:
    """How many tiles of pixels ``launch_branches`` writes statistics of ``z`` for."""
    n, _, h, w = z.shape
    return pixel_tile(n, h, w).count(n, h, w)


def launch_branches(
    x: Tensor, weights: list[Tensor], affine: list[Tensor | None], image_bias: Tensor | None, y: Tensor | None,
    z: Tensor | None, part: Tensor | None, settings: Settings,
) -> None:  # fmt: skip
    """One launch for all branches: writes y, the pre-affine z and the tiles' statistics, each if given."""
    n, c, h, w = x.shape
    dilations, eps, relu, merged, _ = settings
    tile, precision = pixel_tile(n, h, w), conv_precision(x.dtype)
    first = first_channels(weights)
    order = sorted(range(len(weights)), key=lambda b: -weights[b].shape[2])
    rows = [
        (*weights[b].shape[::2][:2], dilations[b], first[b], weights[b].stride(0), weights[b].stride(3)) for b in order
    ]
    block = gemm_block(x, precision)
    bn = fit(max(weight.shape[0] for weight in weights), block.columns)
    o_tiles = [triton.cdiv(weight.shape[0], bn) for weight in weights]
    like = x if y is None else y
    launch(
        dilated_branches_fwd_kernel, (tile.count(n, h, w) * (o_tiles[0] if merged else sum(o_tiles)),), x,
        x, tuple(weights[b] for b in order), tuple(t for b in order for t in affine[4 * b : 4 * b + 4]), image_bias,
        y, z, part, tuple(eps[b] for b in order), tuple(v for row in rows for v in row), n, c, h, w,
        x.stride(0), x.stride(2), x.stride(3), *like.stride(), first[-1],
        RELU=relu, SUM=merged, STORE_Y=y is not None, STORE_Z=z is not None, STATS=part is not None,
        PRECISION=precision, BT=tile.bt, BH=tile.bh, BW=tile.bw, BN=bn, BK=fit(c, block.depth), num_warps=8,
        num_stages=block.stages,
    )  # fmt: skip
