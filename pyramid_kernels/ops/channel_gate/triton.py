"""Triton ``channel_gate``: sums per channel, one small launch for all gates, one pass that writes.

A gate hangs on its whole image, so what writes waits for what sums. The products between them have a launch of their
own: done again in each program that writes, they would read both weights hundreds of times. Sums run in fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...backends import Problem
from .._shared.launch import launch
from .._shared.resample import block, offset
from .._shared.triton import cannot_launch, divided, vector
from .op import Layers
from .settings import Settings
from .triton_bwd import backward
from .triton_tiles import activated, element, finished, matrix, over_pixels, products, sigmoid, sums

__all__ = ["backward", "forward", "supports"]


def supports(problem: Problem) -> str | None:
    return cannot_launch(problem)


@triton.jit
def projected(
    p_part, p_mean, p_weight, p_bias, p_hidden, n, j, c, k, pixels, parts, strides, first, write,
    PARTS: tl.constexpr, ACC: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """The first convolution and its bias at hidden channels ``j``. Saved where ``write``, the means where ``first``."""
    z = tl.zeros_like(j).to(ACC)
    for start in range(0, c, BI):
        i = start + tl.arange(0, BI)
        mean = divided(finished(p_part, n, i, c, parts, PARTS, ACC), pixels)
        tl.store(p_mean + n * c + i, mean, (i < c) & first)
        p_w = p_weight + j[:, None].to(tl.int64) * strides[0] + i[None, :] * strides[1]
        b_w = tl.load(p_w, (j < k)[:, None] & (i < c)[None, :], 0.0).to(ACC)  # [BK, BI]
        z += tl.sum(b_w * mean[None, :], 1)
    z = tl.where(j < k, z, 0.0)  # beyond the weight's rows zeros have met the means, which may be infinite
    z += vector(p_bias, j, j < k, 0.0, ACC)
    tl.store(p_hidden + n * k + j, z, (j < k) & write)
    return z


@triton.jit
def channel_gate_fwd_gate_kernel(
    p_part, p_weight1, p_bias1, affine, p_weight2, p_bias2, p_mean, p_hidden, p_gate,
    c, k, pixels, parts, strides1, strides2,
    EPS: tl.constexpr, ACTIVATION: tl.constexpr, HARD: tl.constexpr, PARTS: tl.constexpr, ACC: tl.constexpr,
    BK: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """One program owns BO gates of one image; between two convolutions it makes all hidden values itself."""
    n, leads = tl.program_id(0).to(tl.int64), tl.program_id(1) == 0
    own = tl.program_id(1) * BO + tl.arange(0, BO)
    if p_weight2 is None:
        z = projected(
            p_part, p_mean, p_weight1, p_bias1, p_hidden, n, own, c, k, pixels, parts, strides1, leads, own >= 0,
            PARTS, ACC, BI,
        )  # fmt: skip
        g = activated(z, own, own < c, affine, EPS, ACTIVATION, ACC)
    else:
        g = vector(p_bias2, own, own < c, 0.0, ACC)
        for start in range(0, k, BK):
            j = start + tl.arange(0, BK)
            z = projected(
                p_part, p_mean, p_weight1, p_bias1, p_hidden, n, j, c, k, pixels, parts, strides1,
                leads & (start == 0), leads, PARTS, ACC, BI,
            )  # fmt: skip
            z = activated(z, j, j < k, affine, EPS, ACTIVATION, ACC)
            p_w = p_weight2 + own[:, None].to(tl.int64) * strides2[0] + j[None, :] * strides2[1]
            b_w = tl.load(p_w, (own < c)[:, None] & (j < k)[None, :], 0.0).to(ACC)  # [BO, BK]
            g += tl.sum(b_w * z[None, :], 1)
    if HARD:
        g += 3.0
        g = divided(tl.where(g < 0, 0.0, tl.where(g > 6, 6.0, g)), tl.full(g.shape, 6.0, ACC))  # NaN stays
    else:
        g = sigmoid(g)
    tl.store(p_gate + n * c + own, g, own < c)


@triton.jit
def channel_gate_fwd_kernel(
    p_x, p_gate, p_y, c, w, pixels, strides,
    RESIDUAL: tl.constexpr, CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program owns BP pixels and BC channels of one image."""
    tiles = tl.cdiv(pixels, BP)
    n = (tl.program_id(0) // tiles).to(tl.int64)
    p, channel = block(tl.program_id(0) % tiles * BP, tl.program_id(1) * BC, BP, BC, CHANNELS_LAST)
    m = (p < pixels) & (channel < c)
    gate = tl.load(p_gate + n * c + channel, channel < c, 0.0)
    b_x = tl.load(p_x + element(n, channel.to(tl.int64), p, w, strides), m, 0.0).to(ACC)
    out = offset(n, channel.to(tl.int64), p, c, pixels, CHANNELS_LAST)
    b_y = b_x * gate
    if RESIDUAL:
        b_y += b_x  # not a gate of one more: infinity times zero is NaN
    tl.store(p_y + out, b_y.to(p_y.dtype.element_ty), m)


def forward(
    x: Tensor, layers: Layers, y: Tensor, mean: Tensor, hidden: Tensor, gate: Tensor, settings: Settings
) -> None:
    """Fill ``y`` (N, C, H, W), dense in its memory format, and ``mean`` (N, C), ``hidden`` (N, K), ``gate`` (N, C)."""
    n, c, h, w = x.shape
    weight1, bias1, *affine, weight2, bias2 = layers
    part = sums(x, None)
    meta = products(x, part, hidden.shape[1])
    launch(
        channel_gate_fwd_gate_kernel, (n, triton.cdiv(c, meta["BO"])), x,
        part, weight1, bias1, tuple(affine), weight2, bias2, mean, hidden, gate, c, hidden.shape[1], h * w,
        part.shape[1], matrix(weight1), matrix(weight2), EPS=settings.eps, ACTIVATION=settings.activation,
        HARD=settings.hard, **meta,
        maxnreg=255,  # or ptxas aims for more blocks at once and spills
    )  # fmt: skip
    grid, block = over_pixels(x)
    launch(channel_gate_fwd_kernel, grid, x, x, gate, y, c, w, h * w, x.stride(), RESIDUAL=settings.residual, **block)
