"""Triton ``pyramid_conv``: what follows and precedes the library's products.

Forward: one program owns a tile of the output, adds every tap of every level where the tap lies inside the map, and
applies the epilogue. Backward: one program owns a strip of one tap's gradient of one level and gathers from the outputs
whose *forward* indices hold it.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ...backends import Problem
from .._shared.launch import launch
from .._shared.layout import is_channels_last
from .._shared.precision import conv_precision
from .._shared.resample import (
    GATHER_REGISTERS,
    accumulator_type,
    block,
    block_elements,
    gather,
    gather_strips,
    offset,
    resampling,
    sample,
)
from .._shared.triton import cannot_launch, tile
from .dense import Operand
from .layout import LEVELS
from .settings import Settings


def supports(problem: Problem) -> str | None:
    return cannot_launch(problem)


@triton.jit
def inside(p, t, m, full, K: tl.constexpr):
    """The pixel that tap ``t`` of output pixel ``p`` reads, and where that lies in the map (elsewhere pixel 0)."""
    y, x = p // full[1] + t // K - K // 2, p % full[1] + t % K - K // 2
    m = m & (y >= 0) & (y < full[0]) & (x >= 0) & (x < full[1])
    return tl.where(m, y * full[1] + x, 0), m


@triton.jit
def product(
    p_x, p_weight, n, p, channel, depth, x_strides, weight_strides, total, full,
    CHANNELS_LAST: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """A map of ``depth`` channels at output pixels ``p``, times its columns of the weight."""
    k = tl.arange(0, BK)
    b_k = k[None, :] if CHANNELS_LAST else k[:, None]  # beside pixels
    p_x += n * x_strides[0] + b_k.to(tl.int64) * x_strides[1]
    p_x += (p // full[1]).to(tl.int64) * x_strides[2] + (p % full[1]).to(tl.int64) * x_strides[3]
    b_x = tl.load(p_x, (b_k < depth) & (p < full[2]), 0.0)
    b_k = k[:, None] if CHANNELS_LAST else k[None, :]  # beside channels
    p_weight += channel.to(tl.int64) * weight_strides[0] + b_k.to(tl.int64) * weight_strides[1]
    b_weight = tl.load(p_weight, (b_k < depth) & (channel < total), 0.0)
    if CHANNELS_LAST:
        return tl.dot(b_x, b_weight, input_precision=PRECISION, out_dtype=ACC)  # [BP, BK] [BK, BC]
    else:
        return tl.dot(b_weight, b_x, input_precision=PRECISION, out_dtype=ACC)  # [BC, BK] [BK, BP]


@triton.jit
def pyramid_conv_merge_kernel(
    p_base, p_x, p_weight, p_levels, p_bias, p_scale, p_shift, p_y, p_z, shapes, strides, depth, x_strides,
    weight_strides, total, full,
    K: tl.constexpr, RELU: tl.constexpr, MODES: tl.constexpr, CHANNELS_LAST: tl.constexpr, PRECISION: tl.constexpr,
    ACC: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One program owns BP output pixels of one image and BC channels; base and y may be the same memory."""
    tiles = tl.cdiv(full[2], BP)
    n = (tl.program_id(0) // tiles).to(tl.int64)
    start = tl.program_id(1) * BC
    p, channel = block(tl.program_id(0) % tiles * BP, start, BP, BC, CHANNELS_LAST)
    m = (p < full[2]) & (channel < total)
    out = offset(n, channel.to(tl.int64), p, total, full[2], CHANNELS_LAST)
    acc = tl.zeros_like(p + channel).to(ACC)
    if p_base is not None:
        acc += tl.load(p_base + out, m, 0.0).to(ACC)
    if p_x is not None:
        acc += product(
            p_x, p_weight, n, p, channel, depth, x_strides, weight_strides, total, full,
            CHANNELS_LAST, PRECISION, ACC, BK,
        )  # fmt: skip
    for i in tl.static_range(len(MODES)):
        p_level = p_levels[i] + n * strides[i][0]
        for t in range(K * K):
            at, m_t = inside(p, t, m, full, K)
            acc += sample(
                p_level, at, channel + t * total, m_t, shapes[i], strides[i][1:], full, tl.constexpr(MODES[i]), ACC
            )
    if p_bias is not None:
        acc += tl.load(p_bias + channel, channel < total, 0.0).to(ACC)
    if p_z is not None:
        tl.store(p_z + out, acc.to(p_z.dtype.element_ty), m)
    if p_scale is not None:
        acc *= tl.load(p_scale + channel, channel < total, 0.0).to(ACC)
    if p_shift is not None:
        acc += tl.load(p_shift + channel, channel < total, 0.0).to(ACC)
    if RELU:
        acc = tl.where(acc < 0, 0.0, acc)
    tl.store(p_y + out, acc.to(p_y.dtype.element_ty), m)


@triton.jit
def pyramid_conv_bwd_dlevels_kernel(
    p_dz, p_dlevels, shapes, strides, images, total, full,
    K: tl.constexpr, MODES: tl.constexpr, TILES: tl.constexpr, CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """One program owns a strip of one tap's gradient of one level; the programs of all levels stand in one row."""
    u = tl.program_id(0)
    for i in tl.static_range(len(MODES)):
        strips = shapes[i][1] * tl.cdiv(shapes[i][2], TILES[i][0])
        programs = images * K * K * tl.cdiv(total, TILES[i][2]) * strips
        if (u >= 0) & (u < programs):
            gather(
                p_dz, None, None, p_dlevels[i], u, shapes[i], strides[i], 0, total, full,
                K, tl.constexpr(MODES[i]), CHANNELS_LAST, ACC, *TILES[i],
            )  # fmt: skip
        u -= programs


def merge(
    base: Tensor | None, operand: Operand | None, levels: list[Tensor], bias: Tensor | None, scale: Tensor | None,
    shift: Tensor | None, y: Tensor, z: Tensor | None, k: int, settings: Settings,
) -> None:  # fmt: skip
    """Fill ``y`` (N, O, H, W), dense, and ``z``, the value before the affine: base or the product of the operand, a map
    and its (O, C), and (N, k*k*O, h, w) levels."""
    n, total, rows, cols = y.shape
    _, mode, align_corners, relu, _ = settings
    last = is_channels_last(y)
    bp, bc = tile(last, total, rows * cols, block_elements(y))
    x, weight = None, None
    steps: tuple[Any, ...] = (0, None, None)  # depth and strides of the product
    if operand is not None:
        x, weight = operand
        bp, bc = _product_tile(block_elements(y), total, last)
        steps = (x.shape[1], x.stride(), weight.stride())
    launch(
        pyramid_conv_merge_kernel, (n * triton.cdiv(rows * cols, bp), triton.cdiv(total, bc)), y,
        base, x, weight, tuple(levels), bias, scale, shift, y, z,
        tuple(tuple(v.shape[1:]) for v in levels), tuple(v.stride() for v in levels), *steps, total,
        (rows, cols, rows * cols),
        K=k, RELU=relu, MODES=tuple(resampling(v.shape, (rows, cols), mode, align_corners) for v in levels),
        CHANNELS_LAST=last, PRECISION=conv_precision(y.dtype), ACC=accumulator_type(y), BP=bp, BC=bc,
        BK=max(16, triton.next_power_of_2(steps[0])), maxnreg=255,
    )  # fmt: skip


def _product_tile(elements: int, total: int, channels_last: bool) -> tuple[int, int]:
    """(BP, BC) of at least 16 each, as a product needs them."""
    bc = min(64, max(16, triton.next_power_of_2(total))) if channels_last else 16
    return max(16, elements // bc), bc


def backward_levels(dz: Tensor, dlevels: list[Tensor], k: int, settings: Settings) -> None:
    """Fill ``dlevels`` (N, k*k*O, h, w) from ``dz`` (N, O, H, W), dense."""
    n, total, rows, cols = dz.shape
    last = is_channels_last(dz)
    for start in range(0, len(dlevels), LEVELS):
        some = dlevels[start : start + LEVELS]
        shapes = tuple((total, *d.shape[2:]) for d in some)
        modes = tuple(resampling(s, (rows, cols), settings.mode, settings.align_corners) for s in shapes)
        tiles, programs = gather_strips(shapes, modes, dz)
        launch(
            pyramid_conv_bwd_dlevels_kernel, (n * k * k * programs,), dz,
            dz, tuple(some), shapes, tuple(d.stride() for d in some), n, total, (rows, cols, rows * cols),
            K=k, MODES=modes, TILES=tiles, CHANNELS_LAST=last, ACC=accumulator_type(dz), maxnreg=GATHER_REGISTERS,
        )  # fmt: skip
