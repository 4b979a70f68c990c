"""What both directions of Triton ``channel_gate`` share: sums per channel, the hidden value, launch sizes."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shared.launch import launch
from .._shared.layout import is_channels_last
from .._shared.precision import accumulation
from .._shared.resample import accumulator_type, block, block_elements, offset
from .._shared.triton import divided, inverse_deviation, tile, vector

#: Programs that share the sums of an image's channels, of which at most PARTS side by side along pixels.
PROGRAMS, PARTS = 1024, 64


@triton.jit
def element(n, channel, p, w, strides):
    """Where (n, channel, pixel p) lies in a map of any strides."""
    y, x = (p // w).to(tl.int64), (p % w).to(tl.int64)
    return n * strides[0] + channel * strides[1] + y * strides[2] + x * strides[3]


@triton.jit
def sigmoid(z):
    """1 / (1 + exp(-z)), whose divisor stays between one and two."""
    t = tl.exp(-tl.abs(z))
    return divided(tl.where(z < 0, t, 1.0), 1.0 + t)


@triton.jit
def normed(z, j, m, affine, EPS: tl.constexpr, ACC: tl.constexpr):
    """``z`` by ``affine``: gain, bias, mean, variance."""
    z = (z - vector(affine[2], j, m, 0.0, ACC)) * inverse_deviation(affine[3], j, m, EPS, ACC)
    return z * vector(affine[0], j, m, 1.0, ACC) + vector(affine[1], j, m, 0.0, ACC)


@triton.jit
def activated(z, j, m, affine, EPS: tl.constexpr, ACTIVATION: tl.constexpr, ACC: tl.constexpr):
    """The hidden value of the product ``z``. NaN stays."""
    z = normed(z, j, m, affine, EPS, ACC)
    if ACTIVATION == "relu":
        z = tl.where(z < 0, 0.0, z)
    if ACTIVATION == "silu":
        z *= sigmoid(z)
    return z


@triton.jit
def finished(p_part, n, i, c, parts, PARTS: tl.constexpr, ACC: tl.constexpr):
    """The sums of image ``n`` over channels ``i``, from all parts in order."""
    part = tl.arange(0, PARTS)[:, None]
    m = (part < parts) & (i < c)[None, :]
    return tl.sum(tl.load(p_part + (n * parts + part) * c + i[None, :], m, 0.0).to(ACC), 0)


@triton.jit
def channel_gate_sums_kernel(
    p_x, p_dy, p_part, c, w, pixels, strides, parts, steps,
    CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program owns ``steps`` tiles of BP pixels and BC channels of one image: part[n, part, c] of x, or of x dy."""
    n, part = (tl.program_id(0) // parts).to(tl.int64), tl.program_id(0) % parts
    p, channel = block(0, tl.program_id(1) * BC, BP, BC, CHANNELS_LAST)
    acc = tl.zeros_like(p + channel).to(ACC)
    for t in range(part * steps, (part + 1) * steps):
        at = t * BP + p
        m = (at < pixels) & (channel < c)
        b_x = tl.load(p_x + element(n, channel.to(tl.int64), at, w, strides), m, 0.0).to(ACC)
        if p_dy is not None:
            b_x *= tl.load(p_dy + offset(n, channel.to(tl.int64), at, c, pixels, CHANNELS_LAST), m, 0.0).to(ACC)
        acc += b_x
    own = tl.program_id(1) * BC + tl.arange(0, BC)
    tl.store(p_part + (n * parts + part) * c + own, tl.sum(acc, 0 if CHANNELS_LAST else 1), own < c)


def sums(x: Tensor, dy: Tensor | None) -> Tensor:
    """part (N, parts, C): each channel's sums of x, or of x dy, over shares of its pixels."""
    n, c, h, w = x.shape
    last = is_channels_last(x)
    bp, bc = tile(last, c, h * w, block_elements(x))
    tiles, slices = triton.cdiv(h * w, bp), triton.cdiv(c, bc)
    steps = triton.cdiv(tiles, max(1, min(PARTS, triton.cdiv(PROGRAMS, max(1, n * slices)))))
    parts = triton.cdiv(tiles, steps)
    part = torch.empty((n, parts, c), dtype=accumulation(x), device=x.device)
    launch(
        channel_gate_sums_kernel, (n * parts, slices), x,
        x, dy, part, c, w, h * w, x.stride(), parts, steps,
        CHANNELS_LAST=last, ACC=accumulator_type(x), BP=bp, BC=bc,
    )  # fmt: skip
    return part


def products(x: Tensor, part: Tensor, hidden: int) -> dict[str, Any]:
    """What the launches of products over (N, C) and (N, K) are compiled for."""
    most = 32 if x.dtype == torch.float64 else 64
    bk, bi = (min(most, triton.next_power_of_2(width)) for width in (hidden, x.shape[1]))
    parts = triton.next_power_of_2(part.shape[1])
    return {"PARTS": parts, "ACC": accumulator_type(x), "BK": bk, "BI": bi, "BO": min(32, bi)}


def matrix(weight: Tensor | None) -> tuple[int, int]:
    """The strides of a weight seen as a matrix."""
    return (0, 0) if weight is None else (weight.stride(0), weight.stride(1))


def over_pixels(x: Tensor) -> tuple[tuple[int, int], dict[str, Any]]:
    """Grid and tile of a launch whose programs own pixels and channels."""
    n, c, h, w = x.shape
    last = is_channels_last(x)
    bp, bc = tile(last, c, h * w, block_elements(x))
    grid = n * triton.cdiv(h * w, bp), triton.cdiv(c, bc)
    return grid, {"CHANNELS_LAST": last, "ACC": accumulator_type(x), "BP": bp, "BC": bc}
