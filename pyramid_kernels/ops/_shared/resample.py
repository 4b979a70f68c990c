"""Dense maps and resampling inside Triton kernels: ATen's source indices, forwards and as the support of a gather."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .layout import is_channels_last

#: Bytes of accumulators in a block (four gathers each: more would spill), and the outputs of a row gathered at once.
BLOCK, REACH = 4096, 64
#: Named, or ptxas aims for more blocks at once and spills a word or two of the gather.
GATHER_REGISTERS = 128


def accumulator_type(x: Tensor) -> tl.dtype:
    """What kernels that read ``x`` add up in, indices and weights included: ACC of the functions below."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def resampling(shape: tuple[int, ...], size: tuple[int, int], mode: str, align_corners: bool) -> str:
    """MODE of the kernels for a map of ``shape`` (..., h, w) at ``size``: "taken" where it has that size already."""
    if shape[-2:] == size:
        return "taken"
    return "nearest" if mode == "nearest" else "align_corners" if align_corners else "half_pixel"


def block_elements(x: Tensor) -> int:
    """How many accumulators a block of kernels that read ``x`` has."""
    return BLOCK // (8 if x.dtype == torch.float64 else 4)


def gather_strips(
    shapes: tuple[tuple[int, ...], ...], modes: tuple[str, ...], full: Tensor
) -> tuple[tuple[tuple[int, int, int], ...], int]:
    """Every gradient's (BQ, BX, BC) of ``gather`` from ``full``; and how many strips of all (c, h, w) an image has."""
    tiles = tuple(_strip(s, m, full) for s, m in zip(shapes, modes, strict=True))
    owned = zip(shapes, tiles, strict=True)
    return tiles, sum(triton.cdiv(c, bc) * h * triton.cdiv(w, bq) for (c, h, w), (bq, _, bc) in owned)


def _strip(shape: tuple[int, ...], mode: str, full: Tensor) -> tuple[int, int, int]:
    """(BQ, BX, BC): pixels of a strip, outputs gathered at once for each, channels."""
    (c, _, w), cols, elements = shape, full.shape[3], block_elements(full)
    reach = 1 if mode == "taken" else cols if w == 1 else math.ceil(2 * cols / w) + 3
    bx = min(REACH, triton.next_power_of_2(min(reach, cols)))
    bc = min(triton.next_power_of_2(c), max(1, elements // bx), 64 if is_channels_last(full) else 8)
    return min(triton.next_power_of_2(w), max(1, elements // (bx * bc))), bx, bc


@triton.jit
def block(start_p, start_c, BP: tl.constexpr, BC: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Pixel and channel indices that broadcast to one block, the contiguous one last."""
    p, channel = start_p + tl.arange(0, BP), start_c + tl.arange(0, BC)
    if CHANNELS_LAST:
        return p[:, None], channel[None, :]
    else:
        return p[None, :], channel[:, None]


@triton.jit
def offset(n, channel, p, total, pixels, CHANNELS_LAST: tl.constexpr):
    """Where (n, channel, pixel p) lies in a dense map of ``total`` channels."""
    if CHANNELS_LAST:
        return (n * pixels + p) * total + channel
    else:
        return (n * total + channel) * pixels + p


@triton.jit
def quotient(a, b, ACC: tl.constexpr):
    """a / b of two sizes, correctly rounded; in fp32 without a slow path, which is a call and costs stack."""
    if ACC == tl.float64:
        return tl.cast(a, ACC) / tl.cast(b, ACC)
    else:
        inverse = (1.0 / tl.cast(b, tl.float32)).to(tl.float64)
        a, b = tl.cast(a, tl.float64), tl.cast(b, tl.float64)
        q = a * inverse
        return (q + (a - q * b) * inverse).to(ACC)


@triton.jit
def source(d, size, full, MODE: tl.constexpr, ACC: tl.constexpr):
    """ATen's source indices below and above output index ``d``, and the weight of the one above.

    Multiply and add are one rounding, as in ATen's CUDA build; nearest is float32 there for every dtype.
    """
    if MODE == "nearest":
        position = tl.cast(d, tl.float32) * quotient(size, full, tl.float32)
        i = tl.minimum(position.to(tl.int32), size - 1)
        return i, i, 0.0
    elif MODE == "taken":
        return d, d, 0.0
    else:
        if MODE == "align_corners":
            position = tl.cast(d, ACC) * quotient(size - 1, tl.maximum(full - 1, 1), ACC)
        else:
            position = tl.fma(tl.cast(d, ACC) + 0.5, quotient(size, full, ACC), -0.5)
            position = tl.where(position < 0, 0.0, position)
        i = tl.minimum(position.to(tl.int32), size - 1)
        # An axis that keeps its size reads nothing else, as on PyTorch's CPU: not even by a weight of zero.
        step = tl.where(size == full, 0, 1)
        return i, tl.minimum(i + step, size - 1), position - i.to(ACC)


@triton.jit
def sample(p_map, p, channel, m, shape, strides, full, MODE: tl.constexpr, ACC: tl.constexpr):
    """A map of ``shape`` (c, h, w) and ``strides`` (c, h, w) at pixels ``p`` of ``full`` (rows, cols, pixels)."""
    p_map += channel.to(tl.int64) * strides[0]
    if MODE == "linear":
        return tl.load(p_map + p.to(tl.int64) * strides[2], m, 0.0).to(ACC)
    else:
        y0, y1, dy = source(p // full[1], shape[1], full[0], MODE, ACC)
        x0, x1, dx = source(p % full[1], shape[2], full[1], MODE, ACC)
        p_0, x0 = p_map + y0.to(tl.int64) * strides[1], x0.to(tl.int64) * strides[2]
        b_00 = tl.load(p_0 + x0, m, 0.0).to(ACC)
        if MODE == "nearest" or MODE == "taken":
            return b_00
        else:
            p_1, x1 = p_map + y1.to(tl.int64) * strides[1], x1.to(tl.int64) * strides[2]
            b_01, b_10 = tl.load(p_0 + x1, m, 0.0).to(ACC), tl.load(p_1 + x0, m, 0.0).to(ACC)
            b_11 = tl.load(p_1 + x1, m, 0.0).to(ACC)
            return (1 - dy) * ((1 - dx) * b_00 + dx * b_01) + dy * ((1 - dx) * b_10 + dx * b_11)


@triton.jit
def support(i, size, full, MODE: tl.constexpr):
    """First and last output that source index ``i`` may reach: the algebraic bounds, one wider on each side."""
    if MODE == "taken":
        low, high = i + 1, i - 1  # itself alone
    elif MODE == "nearest":
        low, high = i * full // size, (i + 1) * full // size
    elif MODE == "align_corners":
        steps = tl.maximum(size - 1, 1)
        low, high = (i - 1) * (full - 1) // steps, tl.cdiv((i + 1) * (full - 1), steps)
    else:
        low, high = ((2 * i - 1) * full - size) // (2 * size), tl.cdiv((2 * i + 3) * full - size, 2 * size)
        low = tl.where(i == 1, 0, low)  # positions before the first source are moved to it, and read the second as well
    return tl.maximum(low - 1, 0), tl.minimum(high + 1, full - 1)


@triton.jit
def weight(d, i, size, full, MODE: tl.constexpr, ACC: tl.constexpr):
    """What output index ``d`` takes from source index ``i``: zero unless the forward maps it there."""
    low, high, above = source(d, size, full, MODE, ACC)
    if MODE == "nearest" or MODE == "taken":
        return tl.where(low == i, 1.0, 0.0).to(ACC)
    else:
        return tl.where(low == i, 1 - above, 0.0) + tl.where(high == i, above, 0.0)


@triton.jit
def reads(d, i, size, full, MODE: tl.constexpr, ACC: tl.constexpr):
    """Whether the forward reads source index ``i`` for output ``d``: by a weight of zero too, which hands NaN on."""
    low, high, _ = source(d, size, full, MODE, ACC)
    return (low == i) | (high == i)


@triton.jit
def gather(
    p_dy, p_y, p_scale, p_dmap, u, shape, strides, first, total, full,
    K: tl.constexpr, MODE: tl.constexpr, CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr,
    BQ: tl.constexpr, BX: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Strip ``u`` of a gradient of ``shape`` (c, h, w) per tap of a K x K kernel, the taps' channels side by side.

    BQ pixels of one row, one tap and BC channels; each pixel's outputs lie along their own axis of the block.
    """
    strips, blocks = tl.cdiv(shape[2], BQ), tl.cdiv(shape[0], BC)
    i = u // strips % shape[1]
    start = u // (strips * shape[1]) % blocks * BC
    t = u // (strips * shape[1] * blocks) % (K * K)
    n = (u // (strips * shape[1] * blocks * K * K)).to(tl.int64)
    down, right = t // K - K // 2, t % K - K // 2
    j, k, channel = u % strips * BQ + tl.arange(0, BQ), tl.arange(0, BX), start + tl.arange(0, BC)
    if CHANNELS_LAST:
        b_j, b_k, b_channel = j[:, None, None], k[None, :, None], channel[None, None, :]
    else:
        b_j, b_k, b_channel = j[None, :, None], k[None, None, :], channel[:, None, None]
    y_low, y_high = support(i, shape[1], full[0], MODE)
    x_low, x_high = support(b_j, shape[2], full[1], MODE)
    reach = tl.max(tl.max(tl.max(tl.where(b_j < shape[2], x_high - x_low, 0), 2), 1), 0)
    acc = tl.zeros_like(b_j + b_k + b_channel).to(ACC)
    out_channel = (first + b_channel).to(tl.int64)
    # The tap of output pixel (y - down, x - right) reads (y, x).
    for y in range(tl.maximum(y_low, down), tl.minimum(y_high, full[0] - 1 + down) + 1):
        share_y = weight(y, i, shape[1], full[0], MODE, ACC)
        m_y = reads(y, i, shape[1], full[0], MODE, ACC)
        for chunk in range(0, reach + 1, BX):
            x = x_low + chunk + b_k
            share = share_y * weight(x, b_j, shape[2], full[1], MODE, ACC)
            m = m_y & reads(x, b_j, shape[2], full[1], MODE, ACC) & (x <= x_high)
            if K > 1:
                m = m & (x - right >= 0) & (x - right < full[1])
            m = m & (b_j < shape[2]) & (b_channel < shape[0])
            at = offset(n, out_channel, (y - down) * full[1] + x - right, total, full[2], CHANNELS_LAST)
            b_dy = tl.load(p_dy + at, m, 0.0).to(ACC)
            if p_y is not None:
                b_dy = tl.where(tl.load(p_y + at, m, 0.0) <= 0, 0.0, b_dy)
            acc += share * b_dy
    if CHANNELS_LAST:
        b_dmap, b_j, b_channel = tl.sum(acc, 1), j[:, None], channel[None, :]
    else:
        b_dmap, b_j, b_channel = tl.sum(acc, 2), j[None, :], channel[:, None]
    if p_scale is not None:
        b_dmap *= tl.load(p_scale + first + b_channel, b_channel < shape[0], 0.0).to(ACC)
    p_dmap += n * strides[0] + (t * shape[0] + b_channel).to(tl.int64) * strides[1] + i.to(tl.int64) * strides[2]
    m = (b_j < shape[2]) & (b_channel < shape[0])
    tl.store(p_dmap + b_j.to(tl.int64) * strides[3], b_dmap.to(p_dmap.dtype.element_ty), m)
