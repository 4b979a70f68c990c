"""What the forward and backward kernels of ``dilated_branches`` share: pixel tiles, the tap loop, affine loads."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shared.triton import arch


@triton.jit
def tile_pixels(tile, n, h, w, BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr):
    """Image, row and column of every pixel of ``tile`` ([BM] each), which exist, and its first row and column."""
    tiles_w, tiles_h = tl.cdiv(w, BW), tl.cdiv(h, BH)
    r = tl.arange(0, BT * BH * BW)
    first_x = tile % tiles_w * BW
    first_y = tile // tiles_w % tiles_h * BH
    x = first_x + r % BW
    y = first_y + r // BW % BH
    image = tile // (tiles_w * tiles_h) * BT + r // (BW * BH)
    return image, y, x, (image < n) & (y < h) & (x < w), first_y, first_x


@triton.jit
def accumulate(
    acc, p_a, row, y, x, m_row, first_y, first_x, h, w, sh, sw, p_b, sk, sn, st, depth, col, m_col, kernel, dilation,
    BH: tl.constexpr, BW: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """acc += A shifted by every live tap @ that tap's B. ``row``: offsets of A's pixels; B: k*sk + col*sn + tap*st."""
    r_k = tl.arange(0, BK)
    for tap in range(0, kernel * kernel):
        dy = (tap // kernel - kernel // 2) * dilation
        dx = (tap % kernel - kernel // 2) * dilation
        rows_live = (first_y + BH - 1 + dy >= 0) & (first_y + dy < h)
        if rows_live & (first_x + BW - 1 + dx >= 0) & (first_x + dx < w):
            m_a = m_row & (y + dy >= 0) & (y + dy < h) & (x + dx >= 0) & (x + dx < w)
            p_row = p_a + (row + dy * sh + dx * sw)
            p_tap = p_b + tap * st
            for k in range(0, depth, BK):
                m_k = k + r_k < depth
                b_a = tl.load(p_row[:, None] + (k + r_k)[None, :], m_a[:, None] & m_k[None, :], 0.0)  # [BM, BK]
                p_col = p_tap + (k + r_k)[:, None] * sk + col[None, :] * sn
                b_b = tl.load(p_col, m_k[:, None] & m_col[None, :], 0.0)  # [BK, BN]
                acc = tl.dot(b_a, b_b, acc, input_precision=PRECISION)
    return acc


@triton.jit
def branch_affine(affine, eps, B: tl.constexpr, o, m_o):
    """(center, reciprocal deviation, multiplier, offset) of branch ``B`` at channels ``o``, so that
    y = (z - center) * deviation * multiplier + offset."""
    center = tl.zeros_like(o).to(tl.float32)
    deviation, multiplier, offset = center + 1.0, center + 1.0, center
    if affine[4 * B] is not None:
        multiplier = tl.load(affine[4 * B] + o, m_o, 0.0).to(tl.float32)
    if affine[4 * B + 1] is not None:
        offset = tl.load(affine[4 * B + 1] + o, m_o, 0.0).to(tl.float32)
    if affine[4 * B + 2] is not None:
        center = tl.load(affine[4 * B + 2] + o, m_o, 0.0).to(tl.float32)
        var = tl.load(affine[4 * B + 3] + o, m_o, 1.0).to(tl.float32)
        deviation = tl.div_rn(1.0, tl.sqrt_rn(var + eps[B]))
    return center, deviation, multiplier, offset


class Tile(NamedTuple):
    """Images, rows and columns of one pixel tile."""

    bt: int
    bh: int
    bw: int

    def count(self, n: int, h: int, w: int) -> int:  # type: ignore[override]  # hides tuple.count
        return triton.cdiv(n, self.bt) * triton.cdiv(h, self.bh) * triton.cdiv(w, self.bw)


def pixel_tile(n: int, h: int, w: int, pixels: int = 128) -> Tile:
    """Near-square rectangles folded over up to 8 images: the smaller the rectangle, the more taps it can skip."""
    up = triton.next_power_of_2
    bt = min(8, up(max(n, 1)))
    bw = min(up(w), 1 << ((pixels // bt).bit_length() // 2))
    bh = min(up(h), pixels // (bt * bw))
    bt = max(bt, min(pixels // (bh * bw), up(max(n, 1))))
    return Tile(max(bt, 16 // (bh * bw)), bh, bw)


class Block(NamedTuple):
    """The largest block of a matrix product along columns and depth, and its pipeline stages."""

    columns: int
    depth: int
    stages: int


def gemm_block(x: Tensor, precision: str, backward: bool = False) -> Block:
    """What fits the registers without a spill: checked by compiling for compute capability 8.0 and 9.0."""
    hopper = arch(x) >= 90
    if x.dtype == torch.float32 and precision == "ieee":
        return Block(64, 32 if hopper and not backward else 16, 2)
    return Block(128, (128 if hopper else 64) // x.element_size(), 3 if hopper else 4)
