"""Dense maps and resampling inside Triton kernels: ATen's source indices, forwards and as the support of a gather."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


def accumulator_type(x: torch.Tensor) -> tl.dtype:
    """What kernels that read ``x`` add up in, indices and weights included: ACC of the functions below."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def resampling(shape: tuple[int, ...], size: tuple[int, int], mode: str, align_corners: bool) -> str:
    """MODE of the kernels for a map of ``shape`` (..., h, w) at ``size``: "taken" where it has that size already."""
    if shape[-2:] == size:
        return "taken"
    return "nearest" if mode == "nearest" else "align_corners" if align_corners else "half_pixel"


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
        return i, tl.minimum(i + 1, size - 1), position - i.to(ACC)


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
    return tl.maximum(low - 1, 0), tl.minimum(high + 1, full - 1)


@triton.jit
def weight(d, i, size, full, MODE: tl.constexpr, ACC: tl.constexpr):
    """What output index ``d`` takes from source index ``i``: zero unless the forward maps it there."""
    low, high, above = source(d, size, full, MODE, ACC)
    if MODE == "nearest" or MODE == "taken":
        return tl.where(low == i, 1.0, 0.0).to(ACC)
    else:
        return tl.where(low == i, 1 - above, 0.0) + tl.where(high == i, above, 0.0)
