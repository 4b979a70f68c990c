"""Triton ``dilated_branches_train``: the convolution kernels of ``dilated_branches`` around batch statistics.

Forward: every tile writes the count, mean and squared deviations of its fp32 accumulators beside z; one kernel merges
them by Chan's formula in a fixed order; one normalises. A plain sum of squares would lose the variance of channels
whose mean is large. Backward: partial sums, their merge, dz, then dx and dw as without statistics.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .._shared.blocks import fit
from .._shared.launch import launch
from ..dilated_branches import triton as branches
from ..dilated_branches.chain import first_channels
from ..dilated_branches.settings import Settings
from ..dilated_branches.triton_tiles import branch_affine

supports = branches.supports


@triton.jit
def dilated_branches_train_stats_kernel(p_part, p_mean, p_var, tiles, channels, BT: tl.constexpr, BC: tl.constexpr):
    """One program owns BC channels: count, mean and squared deviations of all tiles -> mean and biased variance."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    count = tl.zeros([BT, BC], tl.float32)
    total = tl.zeros([BT, BC], tl.float32)
    for start in range(0, tiles, BT):
        t = start + tl.arange(0, BT)
        m = (t < tiles)[:, None] & (c < channels)[None, :]
        p = p_part + t.to(tl.int64)[:, None] * 3 * channels + c[None, :]
        b_count = tl.load(p, m, 0.0)
        count += b_count
        total += b_count * tl.load(p + channels, m, 0.0)
    count_all = tl.maximum(tl.sum(count, 0), 1.0)
    mean = tl.sum(total, 0) / count_all
    squares = tl.zeros([BT, BC], tl.float32)
    for start in range(0, tiles, BT):
        t = start + tl.arange(0, BT)
        m = (t < tiles)[:, None] & (c < channels)[None, :]
        p = p_part + t.to(tl.int64)[:, None] * 3 * channels + c[None, :]
        away = tl.load(p + channels, m, 0.0) - mean[None, :]
        squares += tl.load(p + 2 * channels, m, 0.0) + tl.load(p, m, 0.0) * away * away
    tl.store(p_mean + c, mean, c < channels)
    tl.store(p_var + c, tl.sum(squares, 0) / count_all, c < channels)


@triton.jit
def dilated_branches_train_normalise_kernel(
    p_z, affine, p_y, eps, branches, n, h, w, z_total, sn, sc, sh, sw,
    RELU: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program owns BP pixels and BC channels of one branch of y. ``branches``: (O, first channel) per branch."""
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
            z = tl.load(p_z + p.to(tl.int64)[:, None] * z_total + (first + o)[None, :], m, 0.0).to(tl.float32)
            b_y = (z - center[None, :]) * (deviation * multiplier)[None, :] + offset[None, :]
            if RELU:
                b_y = tl.where(b_y < 0, 0.0, b_y)
            at = (image * sn + y * sh + x * sw)[:, None] + ((first + o).to(tl.int64) * sc)[None, :]
            tl.store(p_y + at, b_y.to(p_y.dtype.element_ty), m)
        base += o_tiles


def launch_statistics(part: Tensor, mean: Tensor, var: Tensor, z: Tensor) -> None:
    """(tiles, 3, channels) of counts, means and squared deviations -> mean and biased variance of ``z``."""
    launch(
        dilated_branches_train_stats_kernel, (triton.cdiv(mean.numel(), 32),), z,
        part, mean, var, part.shape[0], mean.numel(), BT=64, BC=32,
    )  # fmt: skip


def launch_normalise(
    z: Tensor, weights: list[Tensor], affine: list[Tensor | None], y: Tensor, settings: Settings
) -> None:
    """Fill ``y`` from ``z`` and every branch's (gamma, beta, mean, variance)."""
    n, channels, h, w = z.shape
    sizes = [weight.shape[0] for weight in weights]
    bp, bc = 64, fit(max(sizes), 64)
    launch(
        dilated_branches_train_normalise_kernel,
        (triton.cdiv(n * h * w, bp), sum(triton.cdiv(o, bc) for o in sizes)),
        z, z, tuple(affine), y, tuple(settings.eps),
        tuple(v for row in zip(sizes, first_channels(weights), strict=False) for v in row), n, h, w, channels,
        *y.stride(), RELU=settings.relu, BP=bp, BC=bc,
    )  # fmt: skip
