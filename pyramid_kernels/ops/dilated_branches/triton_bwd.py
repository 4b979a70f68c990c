"""Triton ``dilated_branches``, backward.

dz (mask, multiplier, fixed-order sums) -> dx with one accumulator over all (branch, tap) pairs -> dw over the exact
rectangle of pixels that each tap reads, split and re-added in order where too few tiles exist. No atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shared.blocks import fit
from .._shared.launch import launch
from .._shared.precision import conv_precision
from .chain import PIXELS, first_channels, first_of
from .settings import Settings
from .triton_tiles import accumulate, branch_affine, gemm_block, pixel_tile, tile_pixels


@triton.jit
def dilated_branches_bwd_dz_kernel(
    p_dy, p_saved, affine, p_sums, p_dz, p_part, eps, branches, n, h, w, gn, gc, gh, gw, sn, sc, sh, sw, z_total, count,
    RELU: tl.constexpr, SUM: tl.constexpr, KEPT: tl.constexpr, STORE: tl.constexpr, SUMS: tl.constexpr,
    BATCH: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program owns BP pixels and BC channels of one branch: dz (channels_last) and their two partial sums.

    KEPT: ``saved`` is the pre-affine z, else the output. BATCH: the batch's own statistics, whose total gradients
    ``p_sums`` (2, channels) enter dz. ``branches``: (O, first channel) per branch.
    """
    c_tile = tl.program_id(1)
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    image, y, x = (p // (h * w)).to(tl.int64), (p // w % h).to(tl.int64), (p % w).to(tl.int64)
    base = 0
    for B in tl.static_range(len(branches) // 2):
        o_total, first = branches[2 * B], branches[2 * B + 1]
        o_tiles = tl.cdiv(o_total, BC)
        if (c_tile >= base) & (c_tile < base + o_tiles):
            o = (c_tile - base) * BC + tl.arange(0, BC)
            m = (p < n * h * w)[:, None] & (o < o_total)[None, :]
            center, deviation, multiplier, offset = branch_affine(affine, eps, B, o, o < o_total)
            out = (o if SUM else first + o).to(tl.int64)
            at = (image * gn + y * gh + x * gw)[:, None] + (out * gc)[None, :]
            g = tl.load(p_dy + at, m, 0.0).to(tl.float32)  # [BP, BC]
            kept = ((first + o).to(tl.int64) if KEPT else out) * sc
            if RELU or KEPT:
                saved = tl.load(p_saved + (image * sn + y * sh + x * sw)[:, None] + kept[None, :], m, 0.0).to(
                    tl.float32
                )
            normal = g
            if KEPT:
                normal = (saved - center[None, :]) * deviation[None, :]
            if RELU:
                top = normal * multiplier[None, :] + offset[None, :] if KEPT else saved
                g = tl.where(top <= 0, 0.0, g)  # where it is NaN, g passes
            if SUMS:
                p_channel = p_part + tl.program_id(0).to(tl.int64) * 2 * z_total + first + o
                weighted = tl.where(m, g * normal, 0.0) if KEPT else g * 0.0
                tl.store(p_channel, tl.sum(weighted, 0), o < o_total)
                tl.store(p_channel + z_total, tl.sum(g, 0), o < o_total)
            if STORE:
                if BATCH:
                    share = tl.load(p_sums + first + o, o < o_total, 0.0) / count
                    mean_g = tl.load(p_sums + z_total + first + o, o < o_total, 0.0) / count
                    g = g - mean_g[None, :] - normal * share[None, :]
                dz = g * (multiplier * deviation)[None, :]
                p_out = p_dz + p.to(tl.int64)[:, None] * z_total + (first + o)[None, :]
                tl.store(p_out, dz.to(p_dz.dtype.element_ty), m)
        base += o_tiles


@triton.jit
def dilated_branches_bwd_sums_kernel(p_part, p_sums, tiles, length, BT: tl.constexpr, BC: tl.constexpr):
    """One program owns BC of the ``length`` sums and adds their partial sums, tile by tile in order."""
    i = tl.program_id(0) * BC + tl.arange(0, BC)
    acc = tl.zeros([BT, BC], tl.float32)
    for start in range(0, tiles, BT):
        t = start + tl.arange(0, BT)
        m = (t < tiles)[:, None] & (i < length)[None, :]
        acc += tl.load(p_part + t.to(tl.int64)[:, None] * length + i[None, :], m, 0.0)
    tl.store(p_sums + i, tl.sum(acc, 0), i < length)


@triton.jit
def dilated_branches_bwd_dx_kernel(
    p_dz, weights, p_dx, branches, n, c, h, w, gn, gh, gw, sn, sc, sh, sw,
    PRECISION: tl.constexpr, BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One program owns a pixel tile and BN input channels of dx: one accumulator over every branch and live tap.

    ``branches``: (O, k, dilation, first channel in dz, weight stride of o, of tap) per branch.
    """
    c_tiles = tl.cdiv(c, BN)
    image, y, x, m_row, first_y, first_x = tile_pixels(tl.program_id(0) // c_tiles, n, h, w, BT, BH, BW)
    channel = tl.program_id(0) % c_tiles * BN + tl.arange(0, BN)
    row = image.to(tl.int64) * gn + y.to(tl.int64) * gh + x.to(tl.int64) * gw
    acc = tl.zeros([BT * BH * BW, BN], tl.float32)
    for B in tl.static_range(len(branches) // 6):
        acc = accumulate(
            acc, p_dz + branches[6 * B + 3], row, y, x, m_row, first_y, first_x, h, w, gh, gw,
            weights[B], branches[6 * B + 4], 1, branches[6 * B + 5], branches[6 * B], channel, channel < c,
            branches[6 * B + 1], -branches[6 * B + 2], BH, BW, BK, PRECISION,
        )  # fmt: skip
    p_out = p_dx + image.to(tl.int64)[:, None] * sn + channel.to(tl.int64)[None, :] * sc
    p_out += y.to(tl.int64)[:, None] * sh + x.to(tl.int64)[:, None] * sw
    tl.store(p_out, acc.to(p_dx.dtype.element_ty), m_row[:, None] & (channel < c)[None, :])


@triton.jit
def dilated_branches_bwd_dw_kernel(
    p_dz, p_x, dweights, p_part, branches, n, c, h, w, gn, gh, gw, sn, sh, sw, part_total,
    SPLITS: tl.constexpr, PRECISION: tl.constexpr, BO: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """One program owns BO x BC of one tap's gradient, over its share of the pixels whose tap lies inside the map.

    ``branches``: (O, k, dilation, first channel in dz, first element in part, dw strides of o, c, tap) per branch.
    """
    c_tiles = tl.cdiv(c, BC)
    base = 0
    for B in tl.static_range(len(branches) // 8):
        o_total, kernel, dilation = branches[8 * B], branches[8 * B + 1], branches[8 * B + 2]
        taps = kernel * kernel
        tiles = taps * tl.cdiv(o_total, BO) * c_tiles
        local = tl.program_id(0) - base
        if (local >= 0) & (local < tiles):
            tap = local % taps
            channel = local // taps % c_tiles * BC + tl.arange(0, BC)
            o = local // (taps * c_tiles) * BO + tl.arange(0, BO)
            dy = (tap // kernel - kernel // 2) * dilation
            dx = (tap % kernel - kernel // 2) * dilation
            y0, x0 = tl.maximum(0, -dy), tl.maximum(0, -dx)
            rows, cols = tl.maximum(h - tl.abs(dy), 0), tl.maximum(w - tl.abs(dx), 0)
            pixels = n * rows * cols
            share = tl.cdiv(tl.cdiv(pixels, SPLITS), BP) * BP
            acc = tl.zeros([BO, BC], tl.float32)
            for start in range(tl.program_id(1) * share, tl.minimum((tl.program_id(1) + 1) * share, pixels), BP):
                p = start + tl.arange(0, BP)
                image = (p // (rows * cols)).to(tl.int64)
                y, x = (y0 + p // cols % rows).to(tl.int64), (x0 + p % cols).to(tl.int64)
                m_p = (p < pixels)[:, None]
                p_g = p_dz + (image * gn + y * gh + x * gw)[:, None] + (branches[8 * B + 3] + o)[None, :]
                b_g = tl.load(p_g, m_p & (o < o_total)[None, :], 0.0)  # [BP, BO]
                p_in = p_x + (image * sn + (y + dy) * sh + (x + dx) * sw)[:, None] + channel[None, :]
                b_x = tl.load(p_in, m_p & (channel < c)[None, :], 0.0)  # [BP, BC]
                acc = tl.dot(tl.trans(b_g), b_x, acc, input_precision=PRECISION)
            m = (o < o_total)[:, None] & (channel < c)[None, :]
            if SPLITS == 1:
                at = o.to(tl.int64)[:, None] * branches[8 * B + 5] + channel[None, :] * branches[8 * B + 6]
                p_dw = dweights[B] + at + tap * branches[8 * B + 7]
                tl.store(p_dw, acc.to(p_dw.dtype.element_ty), m)
            else:
                at = branches[8 * B + 4] + (o.to(tl.int64)[:, None] * taps + tap) * c + channel[None, :]
                tl.store(p_part + tl.program_id(1).to(tl.int64) * part_total + at, acc, m)
        base += tiles


@triton.jit
def dilated_branches_bwd_dw_sum_kernel(
    p_part, dweights, branches, c, part_total, SPLITS: tl.constexpr, BE: tl.constexpr
):
    """One program owns BE elements of one branch's gradient and adds its splits in order."""
    base = 0
    for B in tl.static_range(len(branches) // 8):
        taps = branches[8 * B + 1] * branches[8 * B + 1]
        elements = branches[8 * B] * taps * c
        tiles = tl.cdiv(elements, BE)
        local = tl.program_id(0) - base
        if (local >= 0) & (local < tiles):
            e = local * BE + tl.arange(0, BE)
            acc = tl.zeros([BE], tl.float32)
            for split in range(SPLITS):
                at = branches[8 * B + 4] + e.to(tl.int64) + split * part_total
                acc += tl.load(p_part + at, e < elements, 0.0)
            o, tap, channel = e // (taps * c), e // c % taps, e % c
            at = o.to(tl.int64) * branches[8 * B + 5] + channel * branches[8 * B + 6] + tap * branches[8 * B + 7]
            p_dw = dweights[B] + at
            tl.store(p_dw, acc.to(p_dw.dtype.element_ty), e < elements)
        base += tiles


@triton.jit
def dilated_branches_bwd_dimage_kernel(
    p_dz, p_dimage, o_total, kernel, dilation, h, w, gn, gh, gw, BP: tl.constexpr, BC: tl.constexpr
):
    """One program owns BC channels of one image and one tap: the sum of dz over the pixels whose tap is in the map."""
    taps = kernel * kernel
    image, tap = (tl.program_id(0) // taps).to(tl.int64), tl.program_id(0) % taps
    o = tl.program_id(1) * BC + tl.arange(0, BC)
    dy = (tap // kernel - kernel // 2) * dilation
    dx = (tap % kernel - kernel // 2) * dilation
    rows, cols = tl.maximum(h - tl.abs(dy), 0), tl.maximum(w - tl.abs(dx), 0)
    acc = tl.zeros([BP, BC], tl.float32)
    for start in range(0, rows * cols, BP):
        p = start + tl.arange(0, BP)
        y, x = tl.maximum(0, -dy) + p // cols, tl.maximum(0, -dx) + p % cols
        at = image * gn + (y.to(tl.int64) * gh + x.to(tl.int64) * gw)[:, None] + o[None, :]
        acc += tl.load(p_dz + at, (p < rows * cols)[:, None] & (o < o_total)[None, :], 0.0).to(tl.float32)
    p_out = p_dimage + (image * o_total + o) * taps + tap
    tl.store(p_out, tl.sum(acc, 0).to(p_dimage.dtype.element_ty), o < o_total)


def launch_dz(
    dy: Tensor, saved: Tensor, weights: list[Tensor], affine: list[Tensor | None], sums: Tensor | None,
    dz: Tensor | None, part: Tensor | None, settings: Settings,
) -> None:  # fmt: skip
    """Write ``dz``, the partial sums, or both; ``sums`` (2, channels) is given for batch statistics."""
    n, _, h, w = dy.shape
    _, eps, relu, merged, kept = settings
    first = first_channels(weights)
    channels = [weight.shape[0] for weight in weights]
    bc = fit(max(channels), 64)
    grid = (triton.cdiv(n * h * w, PIXELS), sum(triton.cdiv(o, bc) for o in channels))
    branches = tuple(v for row in zip(channels, first, strict=False) for v in row)
    launch(
        dilated_branches_bwd_dz_kernel, grid, dy,
        dy, saved, tuple(affine), sums, dz, part, tuple(eps), branches, n, h, w, *dy.stride(), *saved.stride(),
        first[-1], float(n * h * w), RELU=relu, SUM=merged, KEPT=kept, STORE=dz is not None, SUMS=part is not None,
        BATCH=sums is not None, BP=PIXELS, BC=bc,
    )  # fmt: skip


def launch_sums(part: Tensor, sums: Tensor) -> None:
    """(tiles, ...) -> (...), added in a fixed order."""
    launch(
        dilated_branches_bwd_sums_kernel, (triton.cdiv(sums.numel(), 32),), part,
        part, sums, part.shape[0], sums.numel(), BT=64, BC=32,
    )  # fmt: skip


def launch_dimage(dz: Tensor, dimage: Tensor, dilation: int) -> None:
    _, o, taps = dimage.shape
    kernel, bc = 1 if taps == 1 else 3, fit(o, 64)
    launch(
        dilated_branches_bwd_dimage_kernel, (dz.shape[0] * taps, triton.cdiv(o, bc)), dz,
        dz, dimage, o, kernel, dilation, *dz.shape[2:], dz.stride(0), dz.stride(2), dz.stride(3), BP=PIXELS, BC=bc,
    )  # fmt: skip


def launch_dx(dz: Tensor, weights: list[Tensor], dx: Tensor, settings: Settings) -> None:
    n, c, h, w = dx.shape
    precision = conv_precision(dz.dtype)
    tile, block = pixel_tile(n, h, w), gemm_block(dz, precision, backward=True)
    bn = fit(c, block.columns)
    rows = [
        (weight.shape[0], weight.shape[2], d, f, weight.stride(0), weight.stride(3))
        for weight, d, f in zip(weights, settings.dilations, first_of(dz, weights), strict=False)
    ]
    launch(
        dilated_branches_bwd_dx_kernel, (tile.count(n, h, w) * triton.cdiv(c, bn),), dz,
        dz, tuple(weights), dx, tuple(v for row in rows for v in row), n, c, h, w,
        dz.stride(0), dz.stride(2), dz.stride(3), *dx.stride(), PRECISION=precision,
        BT=tile.bt, BH=tile.bh, BW=tile.bw, BN=bn, BK=fit(max(row[0] for row in rows), block.depth), num_warps=8,
        num_stages=block.stages,
    )  # fmt: skip


def launch_dw(dz: Tensor, x: Tensor, dweights: list[Tensor], splits: int, settings: Settings) -> None:
    n, c, h, w = x.shape
    precision, first = conv_precision(dz.dtype), first_of(dz, dweights)
    block = gemm_block(dz, precision)
    bo, bc = (fit(length, block.columns) for length in (max(dw.shape[0] for dw in dweights), c))
    elements = first_channels([dw.flatten() for dw in dweights])
    rows = [
        (dw.shape[0], dw.shape[2], d, f, e, dw.stride(0), dw.stride(1), dw.stride(3))
        for dw, d, f, e in zip(dweights, settings.dilations, first, elements, strict=False)
    ]
    branches = tuple(v for row in rows for v in row)
    tiles = sum(row[1] ** 2 * triton.cdiv(row[0], bo) for row in rows) * triton.cdiv(c, bc)
    part = torch.empty((splits if splits > 1 else 0, elements[-1]), dtype=torch.float32, device=x.device)
    launch(
        dilated_branches_bwd_dw_kernel, (tiles, splits), dz,
        dz, x, tuple(dweights), part, branches, n, c, h, w, dz.stride(0), dz.stride(2), dz.stride(3),
        x.stride(0), x.stride(2), x.stride(3), elements[-1], SPLITS=splits, PRECISION=precision,
        BO=bo, BC=bc, BP=128 // x.element_size(), num_warps=8, num_stages=3,
    )  # fmt: skip
    if splits > 1:
        be = 1024
        grid = (sum(triton.cdiv(dw.numel(), be) for dw in dweights),)
        launch(
            dilated_branches_bwd_dw_sum_kernel, grid, dz,
            part, tuple(dweights), branches, c, elements[-1], SPLITS=splits, BE=be,
        )  # fmt: skip
