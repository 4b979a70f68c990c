"""Triton ``channel_gate``, backward: sums of x dy, one small launch, then dx in one pass and the layers' gradients.

dx = dy gate (+ dy) + the mean's gradient; everything small is computed again from saved means, products and gates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shared.launch import launch
from .._shared.resample import block, offset
from .._shared.triton import divided, inverse_deviation, vector
from .op import Layers
from .settings import Settings
from .triton_tiles import activated, finished, matrix, normed, over_pixels, products, sigmoid, sums


@triton.jit
def before_sigmoid(
    p_part, p_gate, p_dz, n, i, c, parts, write, HARD: tl.constexpr, PARTS: tl.constexpr, ACC: tl.constexpr
):
    """The gradient of the sigmoid's input at channels ``i``; saved where ``write``."""
    g = tl.load(p_gate + n * c + i, i < c, 0.0)
    dz = finished(p_part, n, i, c, parts, PARTS, ACC)
    if HARD:
        dz = tl.where((g > 0) & (g < 1), divided(dz, tl.full(g.shape, 6.0, ACC)), 0.0)
    else:
        dz *= g * (1 - g)
    tl.store(p_dz + n * c + i, dz, (i < c) & write)
    return dz


@triton.jit
def channel_gate_bwd_gate_kernel(
    p_part, p_weight1, affine, p_weight2, p_hidden, p_gate, p_dz, p_dhidden, p_dmean,
    c, k, pixels, parts, strides1, strides2,
    EPS: tl.constexpr, ACTIVATION: tl.constexpr, HARD: tl.constexpr, PARTS: tl.constexpr, ACC: tl.constexpr,
    BK: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """One program owns what BO channels of one image gain through their mean; all hidden gradients it makes itself.

    Saved for the layers' gradients: dz of the sigmoid's input, dhidden of the first affine's result.
    """
    n, leads = tl.program_id(0).to(tl.int64), tl.program_id(1) == 0
    own = tl.program_id(1) * BO + tl.arange(0, BO)
    dmean = tl.zeros_like(own).to(ACC)
    for start in range(0, k, BK):
        j = start + tl.arange(0, BK)
        if p_weight2 is None:
            d = before_sigmoid(p_part, p_gate, p_dz, n, j, c, parts, leads, HARD, PARTS, ACC)
        else:
            d = tl.zeros_like(j).to(ACC)
            for start_c in range(0, c, BI):
                i = start_c + tl.arange(0, BI)
                dz = before_sigmoid(p_part, p_gate, p_dz, n, i, c, parts, leads & (start == 0), HARD, PARTS, ACC)
                p_w = p_weight2 + i[:, None].to(tl.int64) * strides2[0] + j[None, :] * strides2[1]
                b_w = tl.load(p_w, (i < c)[:, None] & (j < k)[None, :], 0.0).to(ACC)  # [BI, BK]
                d += tl.sum(b_w * dz[:, None], 0)
            d = tl.where(j < k, d, 0.0)  # beyond the weight's columns zeros have met dz, which may be infinite
        if ACTIVATION != "none":
            z = normed(tl.load(p_hidden + n * k + j, j < k, 0.0), j, j < k, affine, EPS, ACC)
            if ACTIVATION == "relu":
                d = tl.where(z <= 0, 0.0, d)
            else:
                d *= sigmoid(z) * (1 + z * (1 - sigmoid(z)))
        tl.store(p_dhidden + n * k + j, d, (j < k) & leads)
        d *= vector(affine[0], j, j < k, 1.0, ACC) * inverse_deviation(affine[3], j, j < k, EPS, ACC)
        p_w = p_weight1 + j[:, None].to(tl.int64) * strides1[0] + own[None, :] * strides1[1]
        b_w = tl.load(p_w, (j < k)[:, None] & (own < c)[None, :], 0.0).to(ACC)  # [BK, BO]
        dmean += tl.sum(b_w * d[:, None], 0)
    tl.store(p_dmean + n * c + own, divided(dmean, pixels), own < c)


@triton.jit
def channel_gate_bwd_dx_kernel(
    p_dy, p_gate, p_dmean, p_dx, c, pixels,
    RESIDUAL: tl.constexpr, CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program owns BP pixels and BC channels of one image."""
    tiles = tl.cdiv(pixels, BP)
    n = (tl.program_id(0) // tiles).to(tl.int64)
    p, channel = block(tl.program_id(0) % tiles * BP, tl.program_id(1) * BC, BP, BC, CHANNELS_LAST)
    m = (p < pixels) & (channel < c)
    gate = tl.load(p_gate + n * c + channel, channel < c, 0.0)
    at = offset(n, channel.to(tl.int64), p, c, pixels, CHANNELS_LAST)
    dy = tl.load(p_dy + at, m, 0.0).to(ACC)
    dx = dy * gate + tl.load(p_dmean + n * c + channel, channel < c, 0.0)
    if RESIDUAL:
        dx += dy
    tl.store(p_dx + at, dx.to(p_dx.dtype.element_ty), m)


@triton.jit
def first_layer(
    p_mean, p_hidden, p_dhidden, affine, p_dweight, p_dvectors, u, images, c, k, strides,
    EPS: tl.constexpr, ACC: tl.constexpr, BK: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """Tile ``u`` of dweight1, and in its first column dbias1, dscale1 and dshift1."""
    columns = tl.cdiv(c, BI)
    j, i = u // columns * BK + tl.arange(0, BK), u % columns * BI + tl.arange(0, BI)
    acc, shift, scale = tl.zeros([BK, BI], ACC), tl.zeros([BK], ACC), tl.zeros([BK], ACC)
    inverse = inverse_deviation(affine[3], j, j < k, EPS, ACC)
    gain, centre = vector(affine[0], j, j < k, 1.0, ACC) * inverse, vector(affine[2], j, j < k, 0.0, ACC)
    for n in range(images):
        d = tl.load(p_dhidden + n * k + j, j < k, 0.0)
        acc += (d * gain)[:, None] * tl.load(p_mean + n * c + i, i < c, 0.0)[None, :]
        scale += d * ((tl.load(p_hidden + n * k + j, j < k, 0.0) - centre) * inverse)
        shift += d
    out = j[:, None].to(tl.int64) * strides[0] + i[None, :] * strides[1]
    tl.store(p_dweight + out, acc.to(p_dweight.dtype.element_ty), (j < k)[:, None] & (i < c)[None, :])
    m = (j < k) & (u % columns == 0)
    tl.store(p_dvectors + j, shift * gain, m)
    tl.store(p_dvectors + k + j, scale, m)
    tl.store(p_dvectors + 2 * k + j, shift, m)


@triton.jit
def second_layer(
    p_hidden, p_dz, affine, p_dweight, p_dbias, u, images, c, k, strides,
    EPS: tl.constexpr, ACTIVATION: tl.constexpr, ACC: tl.constexpr, BK: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """Tile ``u`` of dweight2, and in its first column dbias2."""
    columns = tl.cdiv(k, BI)
    i, j = u // columns * BK + tl.arange(0, BK), u % columns * BI + tl.arange(0, BI)
    acc, bias = tl.zeros([BK, BI], ACC), tl.zeros([BK], ACC)
    for n in range(images):
        d = tl.load(p_dz + n * c + i, i < c, 0.0)
        z = tl.load(p_hidden + n * k + j, j < k, 0.0)
        acc += d[:, None] * activated(z, j, j < k, affine, EPS, ACTIVATION, ACC)[None, :]
        bias += d
    out = i[:, None].to(tl.int64) * strides[0] + j[None, :] * strides[1]
    tl.store(p_dweight + out, acc.to(p_dweight.dtype.element_ty), (i < c)[:, None] & (j < k)[None, :])
    tl.store(p_dbias + i, bias, (i < c) & (u % columns == 0))


@triton.jit
def channel_gate_bwd_dweights_kernel(
    p_mean, p_hidden, p_dz, p_dhidden, affine, p_dweight1, p_dweight2, p_dvectors,
    images, c, k, strides1, strides2,
    EPS: tl.constexpr, ACTIVATION: tl.constexpr, ACC: tl.constexpr, BK: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """One program owns BK x BI of one weight's gradient and adds images in order."""
    u, tiles = tl.program_id(0), tl.cdiv(k, BK) * tl.cdiv(c, BI)
    if u < tiles:
        first_layer(
            p_mean, p_hidden, p_dhidden, affine, p_dweight1, p_dvectors, u, images, c, k, strides1, EPS, ACC, BK, BI
        )
    elif p_dweight2 is not None:
        second_layer(
            p_hidden, p_dz, affine, p_dweight2, p_dvectors + 3 * k, u - tiles, images, c, k, strides2,
            EPS, ACTIVATION, ACC, BK, BI,
        )  # fmt: skip


def backward(
    dy: Tensor, x: Tensor, saved: Sequence[Tensor], layers: Layers, dx: Tensor | None,
    gradients: Sequence[Tensor] | None, settings: Settings,
) -> None:  # fmt: skip
    """Fill ``dx`` and ``gradients``, of weight1, weight2 and all vectors, where given; ``dy`` is dense as y is."""
    n, c, h, w = x.shape
    mean, hidden, gate = saved
    weight1, _, *affine, weight2, _ = layers
    part = sums(x, dy)
    meta = products(x, part, hidden.shape[1])
    sizes = (c, hidden.shape[1])
    dz, dhidden, dmean = torch.empty_like(gate), torch.empty_like(hidden), torch.empty_like(mean)
    launch(
        channel_gate_bwd_gate_kernel, (n, triton.cdiv(c, meta["BO"])), x,
        part, weight1, tuple(affine), weight2, hidden, gate, dz, dhidden, dmean, *sizes, h * w, part.shape[1],
        matrix(weight1), matrix(weight2), EPS=settings.eps, ACTIVATION=settings.activation, HARD=settings.hard, **meta,
        maxnreg=255,  # or ptxas aims for more blocks at once and spills
    )  # fmt: skip
    if gradients is not None:
        dweight1, dweight2, dvectors = gradients
        bk, bi = meta["BK"], meta["BI"]
        weights = [sizes[::-1], sizes][: 1 if weight2 is None else 2]
        programs = sum(triton.cdiv(rows, bk) * triton.cdiv(cols, bi) for rows, cols in weights)
        launch(
            channel_gate_bwd_dweights_kernel, (programs,), x,
            mean, hidden, dz, dhidden, tuple(affine), dweight1, None if weight2 is None else dweight2, dvectors, n,
            *sizes, matrix(dweight1), matrix(None if weight2 is None else dweight2),
            EPS=settings.eps, ACTIVATION=settings.activation, ACC=meta["ACC"], BK=bk, BI=bi,
        )  # fmt: skip
    if dx is not None:
        grid, block = over_pixels(dx)
        launch(channel_gate_bwd_dx_kernel, grid, dx, dy, gate, dmean, dx, c, h * w, RESIDUAL=settings.residual, **block)
