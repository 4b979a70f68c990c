"""Triton ``upsample_merge``.

Forward: one program owns a tile of the output and gathers from every map behind it; small maps live in L1 and L2, so
the cost is one write. Backward: one program owns a strip of one map's gradient and gathers from the outputs whose
*forward* indices hold it. Gradients of scale and shift recompute the value before the affine and add in fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...backends import Problem
from .._shared.launch import launch
from .._shared.layout import is_channels_last
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
from .layout import MAPS, chunks
from .settings import Settings

#: Programs that share the sums of scale's and shift's gradients.
PROGRAMS = 1024


def supports(problem: Problem) -> str | None:
    return cannot_launch(problem)


@triton.jit
def slice_of(t, shapes, SUM: tl.constexpr, MAPS: tl.constexpr, BC: tl.constexpr):
    """Map of channel tile ``t``, the tile's first channel in it, its channels, and the output channels before it."""
    level, start, count, first = t * 0, t * BC, t * 0 + shapes[0][0], t * 0
    tiles, channels = t * 0, t * 0
    if not SUM:
        for i in tl.static_range(MAPS):
            here = t >= tiles
            level, count = tl.where(here, i, level), tl.where(here, shapes[i][0], count)
            start, first = tl.where(here, (t - tiles) * BC, start), tl.where(here, channels, first)
            tiles += tl.cdiv(shapes[i][0], BC)
            channels += shapes[i][0]
    return level, start, count, first


@triton.jit
def merged(
    p_maps, n, p, channel, m, level, shapes, strides, full,
    SUM: tl.constexpr, MODES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Map ``level``, or the sum of all, at output pixels ``p``, before the affine."""
    acc = tl.zeros_like(p + channel).to(ACC)
    for i in tl.static_range(len(MODES)):
        if SUM or level == i:
            p_map = p_maps[i] + n * strides[i][0]
            acc += sample(p_map, p, channel, m, shapes[i], strides[i][1:], full, tl.constexpr(MODES[i]), ACC)
    return acc


@triton.jit
def upsample_merge_fwd_kernel(
    p_maps, p_scale, p_shift, p_y, shapes, strides, first, total, full,
    SUM: tl.constexpr, RELU: tl.constexpr, MODES: tl.constexpr, CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program owns BP output pixels of one image and BC channels of one map's slice (of the sum)."""
    tiles = tl.cdiv(full[2], BP)
    n = (tl.program_id(0) // tiles).to(tl.int64)
    level, start, count, before = slice_of(tl.program_id(1), shapes, SUM, len(MODES), BC)
    p, channel = block(tl.program_id(0) % tiles * BP, start, BP, BC, CHANNELS_LAST)
    m = (p < full[2]) & (channel < count)
    acc = merged(p_maps, n, p, channel, m, level, shapes, strides, full, SUM, MODES, ACC)
    channel += first + before
    if p_scale is not None:
        acc *= tl.load(p_scale + channel, channel < first + before + count, 0.0).to(ACC)
    if p_shift is not None:
        acc += tl.load(p_shift + channel, channel < first + before + count, 0.0).to(ACC)
    if RELU:
        acc = tl.where(acc < 0, 0.0, acc)
    out = offset(n, channel.to(tl.int64), p, total, full[2], CHANNELS_LAST)
    tl.store(p_y + out, acc.to(p_y.dtype.element_ty), m)


@triton.jit
def upsample_merge_bwd_dmaps_kernel(
    p_dy, p_y, p_scale, p_dmaps, shapes, strides, firsts, images, total, full,
    MODES: tl.constexpr, TILES: tl.constexpr, CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """One program owns a strip of one map's gradient; the programs of all maps stand in one row."""
    u = tl.program_id(0)
    for i in tl.static_range(len(MODES)):
        programs = images * tl.cdiv(shapes[i][0], TILES[i][2]) * shapes[i][1] * tl.cdiv(shapes[i][2], TILES[i][0])
        if (u >= 0) & (u < programs):
            gather(
                p_dy, p_y, p_scale, p_dmaps[i], u, shapes[i], strides[i], firsts[i], total, full,
                1, tl.constexpr(MODES[i]), CHANNELS_LAST, ACC, *TILES[i],
            )  # fmt: skip
        u -= programs


@triton.jit
def upsample_merge_bwd_affine_kernel(
    p_dy, p_y, p_maps, p_part, shapes, strides, first, images, total, full, steps,
    SUM: tl.constexpr, RECOMPUTE: tl.constexpr, MODES: tl.constexpr, CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program sums ``steps`` pixel tiles of BC channels: part[0] dshift, part[1] dscale, each (parts, total)."""
    tiles = tl.cdiv(full[2], BP)
    level, start, count, before = slice_of(tl.program_id(1), shapes, SUM, len(MODES), BC)
    p, channel = block(0, start, BP, BC, CHANNELS_LAST)
    shift, scale = tl.zeros_like(p + channel).to(ACC), tl.zeros_like(p + channel).to(ACC)
    for t in range(tl.program_id(0) * steps, tl.minimum((tl.program_id(0) + 1) * steps, images * tiles)):
        n, at = (t // tiles).to(tl.int64), t % tiles * BP + p
        m = (at < full[2]) & (channel < count)
        out = offset(n, (first + before + channel).to(tl.int64), at, total, full[2], CHANNELS_LAST)
        b_dy = tl.load(p_dy + out, m, 0.0).to(ACC)
        if p_y is not None:
            b_dy = tl.where(tl.load(p_y + out, m, 0.0) <= 0, 0.0, b_dy)
        shift += b_dy
        if RECOMPUTE:
            scale += b_dy * merged(p_maps, n, at, channel, m, level, shapes, strides, full, SUM, MODES, ACC)
    axis: tl.constexpr = 0 if CHANNELS_LAST else 1
    channel = start + tl.arange(0, BC)
    p_part += tl.program_id(0).to(tl.int64) * total + first + before + channel
    tl.store(p_part, tl.sum(shift, axis), channel < count)
    if RECOMPUTE:
        tl.store(p_part + tl.num_programs(0).to(tl.int64) * total, tl.sum(scale, axis), channel < count)


@triton.jit
def upsample_merge_sums_kernel(p_part, p_sums, parts, total, BR: tl.constexpr, BC: tl.constexpr):
    """One program adds the parts of BC channels of one gradient, in order."""
    channel = tl.program_id(0) * BC + tl.arange(0, BC)[None, :]
    row = tl.arange(0, BR)[:, None]
    p_part += tl.program_id(1).to(tl.int64) * parts * total
    acc = tl.zeros([BR, BC], p_part.dtype.element_ty)
    for start in range(0, parts, BR):
        m = (start + row < parts) & (channel < total)
        acc += tl.load(p_part + (start + row).to(tl.int64) * total + channel, m, 0.0)
    channel = tl.program_id(0) * BC + tl.arange(0, BC)
    tl.store(p_sums + tl.program_id(1) * total + channel, tl.sum(acc, 0), channel < total)


def _maps(maps: list[Tensor], size: tuple[int, int], settings: Settings) -> tuple[tuple, tuple, tuple]:
    """Shapes (c, h, w), strides (n, c, h, w) and modes of the maps; "linear" is taken with one stride over pixels."""
    modes = []
    for m in maps:
        how = resampling(tuple(m.shape), size, settings.mode, settings.align_corners)
        linear = how == "taken" and (m.shape[2] == 1 or m.stride(2) == m.shape[3] * m.stride(3))
        modes.append("linear" if linear else how)
    return tuple(tuple(m.shape[1:]) for m in maps), tuple(m.stride() for m in maps), tuple(modes)


def _tile(maps: list[Tensor], pixels: int, channels_last: bool) -> tuple[int, int]:
    """(BP, BC) for the widest of ``maps``."""
    return tile(channels_last, max(m.shape[1] for m in maps), pixels, block_elements(maps[0]))


def _tiles(maps: list[Tensor], merge: str, bc: int) -> int:
    return sum(triton.cdiv(m.shape[1], bc) for m in (maps[:1] if merge == "sum" else maps))


def forward(maps: list[Tensor], scale: Tensor | None, shift: Tensor | None, y: Tensor, settings: Settings) -> None:
    """Fill ``y`` (N, C_out, H, W), dense in its memory format."""
    n, total, rows, cols = y.shape
    last, merge = is_channels_last(y), settings.merge
    for first, some in chunks(maps, merge):
        bp, bc = _tile(some, rows * cols, last)
        shapes, strides, modes = _maps(some, (rows, cols), settings)
        launch(
            upsample_merge_fwd_kernel, (n * triton.cdiv(rows * cols, bp), _tiles(some, merge, bc)), y,
            tuple(some), scale, shift, y, shapes, strides, first, total, (rows, cols, rows * cols),
            SUM=merge == "sum", RELU=settings.relu, MODES=modes, CHANNELS_LAST=last, ACC=accumulator_type(y),
            BP=bp, BC=bc,
        )  # fmt: skip


def backward_maps(
    dy: Tensor, y: Tensor | None, scale: Tensor | None, dmaps: list[Tensor], firsts: list[int], settings: Settings
) -> None:
    """Fill ``dmaps`` (N, C_i, H_i, W_i) from ``dy``, dense in its memory format; map i starts at channel firsts[i]."""
    n, total, rows, cols = dy.shape
    last = is_channels_last(dy)
    for start in range(0, len(dmaps), MAPS):
        some = dmaps[start : start + MAPS]
        shapes = tuple(tuple(d.shape[1:]) for d in some)
        modes = tuple(resampling(s, (rows, cols), settings.mode, settings.align_corners) for s in shapes)
        tiles, programs = gather_strips(shapes, modes, dy)
        launch(
            upsample_merge_bwd_dmaps_kernel, (n * programs,), dy,
            dy, y, scale, tuple(some), shapes, tuple(d.stride() for d in some),
            tuple(firsts[start : start + MAPS]), n, total, (rows, cols, rows * cols),
            MODES=modes, TILES=tiles, CHANNELS_LAST=last, ACC=accumulator_type(dy), maxnreg=GATHER_REGISTERS,
        )  # fmt: skip


def backward_affine(dy: Tensor, y: Tensor | None, maps: list[Tensor], sums: Tensor, settings: Settings) -> None:
    """Fill ``sums`` (1 or 2, C_out): dshift and, where maps are given, dscale."""
    n, total, rows, cols = dy.shape
    last, recompute = is_channels_last(dy), bool(maps)
    # Without maps the channels are one slice, and nothing is read but dy and y.
    maps, merge = (maps, settings.merge) if recompute else ([dy], "sum")
    bp, bc = _tile(maps, rows * cols, last)
    tiles = n * triton.cdiv(rows * cols, bp)
    steps = max(1, triton.cdiv(tiles * triton.cdiv(total, bc), PROGRAMS))
    parts = triton.cdiv(tiles, steps)
    part = torch.empty((sums.shape[0], parts, total), dtype=sums.dtype, device=sums.device)
    for first, some in chunks(maps, merge):
        shapes, strides, modes = _maps(some, (rows, cols), settings)
        launch(
            upsample_merge_bwd_affine_kernel, (parts, _tiles(some, merge, bc)), dy,
            dy, y, tuple(some), part, shapes, strides, first, n, total, (rows, cols, rows * cols), steps,
            SUM=merge == "sum", RECOMPUTE=recompute, MODES=modes, CHANNELS_LAST=last, ACC=accumulator_type(dy),
            BP=bp, BC=bc, maxnreg=255,
        )  # fmt: skip
    br, bc = tile(True, total, parts)
    launch(
        upsample_merge_sums_kernel, (triton.cdiv(total, bc), sums.shape[0]), dy, part, sums, parts, total, BR=br, BC=bc
    )
