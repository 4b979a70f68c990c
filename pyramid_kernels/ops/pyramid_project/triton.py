"""Triton ``pyramid_project``: grouped GEMMs over the levels, one launch per product.

The rows of level l are its cells of all images. Forward: one program owns BM rows and BN output channels of one level
and applies norm or affine and ReLU to the accumulators; cells beyond a level's grid are rows without depth, so the
same programs write their zeros. Backward: dz and the sums of the epilogue's gradients, then one launch for the pooled
map's gradient and one for all weights'; every sum runs in fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...backends import Problem
from .._shared.blocks import fit
from .._shared.launch import launch
from .._shared.precision import conv_precision
from .._shared.triton import cannot_launch, inverse_deviation, vector
from .settings import Settings

Vectors = list[list[Tensor | None]]


def supports(problem: Problem) -> str | None:
    return cannot_launch(problem, float64=False)


@triton.jit
def rows(start, images, cells, B: tl.constexpr):
    """Image and cell of B consecutive rows, and which of them exist."""
    r = start + tl.arange(0, B)
    return (r // tl.maximum(cells, 1)).to(tl.int64), (r % tl.maximum(cells, 1)).to(tl.int64), r < images * cells


@triton.jit
def project(
    p_x, p_w, p_gain, p_bias, p_mean, p_var, eps, p_y, p_z, u, images, c, channels, cells, full,
    x_strides, w_strides, y_strides,
    RELU: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Tile ``u`` of one level: its rows first, then those of the cells it does not have."""
    blocks, data = tl.cdiv(channels, BN), tl.cdiv(images * cells, BM)
    o = u % blocks * BN + tl.arange(0, BN)
    t = u // blocks
    beyond = t >= data
    n, s, m_r = rows(tl.where(beyond, t - data, t) * BM, images, tl.where(beyond, full - cells, cells), BM)
    m_o = o < channels
    k = tl.arange(0, BK)
    p_a = p_x + n[:, None] * x_strides[0] + s[:, None] * x_strides[2] + k[None, :] * x_strides[1]  # [BM, BK]
    p_b = p_w + o[None, :].to(tl.int64) * w_strides[0] + k[:, None] * w_strides[1]  # [BK, BN]
    acc = tl.zeros([BM, BN], tl.float32)
    for start in range(0, tl.where(beyond, 0, c), BK):
        m_k = start + k < c
        b_a = tl.load(p_a + start * x_strides[1], m_r[:, None] & m_k[None, :], 0.0)
        b_b = tl.load(p_b + start * w_strides[1], m_k[:, None] & m_o[None, :], 0.0)
        acc = tl.dot(b_a, b_b, acc, input_precision=PRECISION)
    s += tl.where(beyond, cells, 0)
    out = n[:, None] * y_strides[0] + o[None, :].to(tl.int64) * y_strides[1] + s[:, None] * y_strides[2]
    m = m_r[:, None] & m_o[None, :]
    if p_z is not None:
        tl.store(p_z + out, acc.to(p_z.dtype.element_ty), m)
    acc = (acc - vector(p_mean, o, m_o, 0.0)[None, :]) * inverse_deviation(p_var, o, m_o, eps)[None, :]
    acc = acc * vector(p_gain, o, m_o, 1.0)[None, :] + vector(p_bias, o, m_o, 0.0)[None, :]
    if RELU:
        acc = tl.where(acc < 0, 0.0, acc)
    tl.store(p_y + out, tl.where(beyond, 0.0, acc).to(p_y.dtype.element_ty), m)


@triton.jit
def pyramid_project_fwd_kernel(
    p_x, p_weights, p_gains, p_biases, p_means, p_vars, eps, p_y, p_z, images, c, full, cells, channels,
    x_strides, w_strides, y_strides,
    RELU: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One program owns BM rows and BN output channels of one level; the programs of all levels stand in one row."""
    u = tl.program_id(0)
    for i in tl.static_range(len(p_weights)):
        tiles = tl.cdiv(images * cells[i], BM) + tl.cdiv(images * (full - cells[i]), BM)
        tiles *= tl.cdiv(channels[i], BN)
        if (u >= 0) & (u < tiles):
            p_saved = p_z
            if p_z is not None:
                p_saved += before(channels, i) * y_strides[1]
            project(
                p_x + before(cells, i) * x_strides[2], p_weights[i], p_gains[i], p_biases[i], p_means[i], p_vars[i],
                eps[i], p_y + before(channels, i) * y_strides[1], p_saved, u, images, c, channels[i], cells[i], full,
                x_strides, w_strides[i], y_strides, RELU, PRECISION, BM, BN, BK,
            )  # fmt: skip
        u -= tiles


@triton.jit
def before(counts, LEVEL: tl.constexpr):
    """The sum of the first LEVEL counts, in 64 bits."""
    total = tl.cast(0, tl.int64)
    for i in tl.static_range(LEVEL):
        total += counts[i]
    return total


@triton.jit
def pyramid_project_bwd_dz_kernel(
    p_dy, p_y, p_z, p_gains, p_means, p_vars, eps, p_dz, p_sums, images, total, full, cells, channels,
    dy_strides, y_strides, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One program owns all rows and BN channels of one level: dz, zero beyond its cells, and dgain and dbias."""
    u = tl.program_id(0)
    for i in tl.static_range(len(channels)):
        blocks = tl.cdiv(channels[i], BN)
        if (u >= 0) & (u < blocks):
            o = u * BN + tl.arange(0, BN)
            m_o = o < channels[i]
            gain, mean = vector(p_gains[i], o, m_o, 1.0)[None, :], vector(p_means[i], o, m_o, 0.0)[None, :]
            inverse = inverse_deviation(p_vars[i], o, m_o, eps[i])[None, :]
            # Few rows, and their sum may cancel: float64 costs nothing here.
            dgain, dbias = tl.zeros([BM, BN], tl.float64), tl.zeros([BM, BN], tl.float64)
            at = (before(channels, i) + o)[None, :]
            for start in range(0, images * full, BM):
                n, s, m_r = rows(start, images, full, BM)
                m_row = m_r[:, None] & m_o[None, :]
                m = m_row & (s < cells[i])[:, None]
                here = n[:, None] * dy_strides[0] + at * dy_strides[1] + s[:, None] * dy_strides[2]
                saved = n[:, None] * y_strides[0] + at * y_strides[1] + s[:, None] * y_strides[2]
                b_dy = tl.load(p_dy + here, m, 0.0).to(tl.float32)  # [BM, BN]
                if p_y is not None:
                    b_dy = tl.where(tl.load(p_y + saved, m, 0.0) <= 0, 0.0, b_dy)
                dbias += b_dy
                if p_z is not None:
                    dgain += tl.where(m, b_dy * (tl.load(p_z + saved, m, 0.0).to(tl.float32) - mean) * inverse, 0.0)
                tl.store(p_dz + here, (b_dy * gain * inverse).to(p_dz.dtype.element_ty), m_row)
            p_out = p_sums + before(channels, i) + o
            tl.store(p_out, tl.sum(dgain, 0).to(tl.float32), m_o)
            tl.store(p_out + total, tl.sum(dbias, 0).to(tl.float32), m_o)
        u -= blocks


@triton.jit
def pyramid_project_bwd_dpooled_kernel(
    p_dz, p_weights, p_dx, images, c, cells, channels, dz_strides, w_strides, x_strides,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One program owns BM rows of one level and BN input channels; depth is the level's output channels."""
    u = tl.program_id(0)
    blocks = tl.cdiv(c, BN)
    for i in tl.static_range(len(p_weights)):
        tiles = tl.cdiv(images * cells[i], BM) * blocks
        if (u >= 0) & (u < tiles):
            n, s, m_r = rows(u // blocks * BM, images, cells[i], BM)
            k, j = tl.arange(0, BK), u % blocks * BN + tl.arange(0, BN)
            p_a = p_dz + before(channels, i) * dz_strides[1] + n[:, None] * dz_strides[0] + s[:, None] * dz_strides[2]
            p_b = p_weights[i] + j[None, :].to(tl.int64) * w_strides[i][1]
            acc = tl.zeros([BM, BN], tl.float32)
            for start in range(0, channels[i], BK):
                o = (start + k).to(tl.int64)
                m_k = o < channels[i]
                b_a = tl.load(p_a + o[None, :] * dz_strides[1], m_r[:, None] & m_k[None, :], 0.0)  # [BM, BK]
                b_b = tl.load(p_b + o[:, None] * w_strides[i][0], m_k[:, None] & (j < c)[None, :], 0.0)  # [BK, BN]
                acc = tl.dot(b_a, b_b, acc, input_precision=PRECISION)
            out = n[:, None] * x_strides[0] + j[None, :].to(tl.int64) * x_strides[1]
            out += (before(cells, i) + s)[:, None] * x_strides[2]
            tl.store(p_dx + out, acc.to(p_dx.dtype.element_ty), m_r[:, None] & (j < c)[None, :])
        u -= tiles


@triton.jit
def pyramid_project_bwd_dweights_kernel(
    p_dz, p_x, p_dweights, images, c, cells, channels, dz_strides, x_strides, w_strides,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One program owns BM output and BN input channels of one level's weight; depth is the level's rows, in order."""
    u = tl.program_id(0)
    blocks = tl.cdiv(c, BN)
    for i in tl.static_range(len(p_dweights)):
        tiles = tl.cdiv(channels[i], BM) * blocks
        if (u >= 0) & (u < tiles):
            o, j = u // blocks * BM + tl.arange(0, BM), u % blocks * BN + tl.arange(0, BN)
            m_o, m_j = (o < channels[i])[:, None], (j < c)[None, :]
            p_a = p_dz + (before(channels, i) + o)[:, None] * dz_strides[1]
            p_b = p_x + before(cells, i) * x_strides[2] + j[None, :].to(tl.int64) * x_strides[1]
            acc = tl.zeros([BM, BN], tl.float32)
            for start in range(0, images * cells[i], BK):
                n, s, m_k = rows(start, images, cells[i], BK)
                b_a = tl.load(p_a + (n * dz_strides[0] + s * dz_strides[2])[None, :], m_o & m_k[None, :], 0.0)
                b_b = tl.load(p_b + (n * x_strides[0] + s * x_strides[2])[:, None], m_k[:, None] & m_j, 0.0)
                acc = tl.dot(b_a, b_b, acc, input_precision=PRECISION)
            out = o[:, None].to(tl.int64) * w_strides[i][0] + j[None, :].to(tl.int64) * w_strides[i][1]
            tl.store(p_dweights[i] + out, acc.to(p_dweights[i].dtype.element_ty), m_o & m_j)
        u -= tiles


def _block(x: Tensor, rows: int, cols: int, depth: int) -> dict[str, int]:
    """BM, BN, BK: narrow, because a pyramid has few rows and the weights are what is read."""
    return {"BM": fit(rows, 64), "BN": fit(cols, 32), "BK": fit(depth, 128 // x.element_size())}


def _channel_strides(weights: list[Tensor]) -> tuple[tuple[int, int], ...]:
    return tuple((w.stride(0), w.stride(1)) for w in weights)


def forward(
    pooled: Tensor, weights: list[Tensor], vectors: Vectors, y: Tensor, z: Tensor | None, settings: Settings
) -> None:
    """Fill ``y`` (N, sum O, S') and, unless None, ``z``: the products before the epilogue, with y's strides."""
    n, c, _ = pooled.shape
    cells, eps, relu, _ = settings
    full = y.shape[2]
    channels = [w.shape[0] for w in weights]
    block = _block(pooled, n * full, max(channels), c)
    cdiv, bm = triton.cdiv, block["BM"]
    tiles = [cdiv(n * k, bm) + cdiv(n * (full - k), bm) for k in cells]
    programs = sum(t * cdiv(o, block["BN"]) for t, o in zip(tiles, channels, strict=True))
    launch(
        pyramid_project_fwd_kernel, (programs,), pooled,
        pooled, tuple(weights), *map(tuple, vectors), tuple(eps), y, z, n, c, full, tuple(cells), tuple(channels),
        pooled.stride(), _channel_strides(weights), y.stride(),
        RELU=relu, PRECISION=conv_precision(pooled.dtype), **block,
        maxnreg=168,  # three blocks per multiprocessor: unbounded, ptxas spills for a fourth
    )  # fmt: skip


def backward_dz(
    dy: Tensor, y: Tensor | None, z: Tensor | None, vectors: Vectors, dz: Tensor, sums: Tensor, channels: list[int],
    settings: Settings,
) -> None:  # fmt: skip
    """Fill ``dz`` on the cells of every level, and ``sums`` (2, sum O): dgain (0 without ``z``) and dbias."""
    gains, _, means, variances = map(tuple, vectors)
    saved = next(t for t in (y, z, dy) if t is not None)  # y and z have the same strides
    block = {"BM": 32, "BN": 32}
    launch(
        pyramid_project_bwd_dz_kernel, (sum(triton.cdiv(o, block["BN"]) for o in channels),), dy,
        dy, y, z, gains, means, variances, tuple(settings.eps), dz, sums, *dy.shape,
        tuple(settings.cells), tuple(channels), dy.stride(), saved.stride(), **block,
    )  # fmt: skip


def backward_dpooled(dz: Tensor, weights: list[Tensor], dpooled: Tensor, settings: Settings) -> None:
    """Fill ``dpooled`` (N, C, S)."""
    n, c, _ = dpooled.shape
    cells, channels = settings.cells, [w.shape[0] for w in weights]
    block = _block(dz, n * max(cells), c, max(channels))
    programs = sum(triton.cdiv(n * k, block["BM"]) for k in cells) * triton.cdiv(c, block["BN"])
    launch(
        pyramid_project_bwd_dpooled_kernel, (programs,), dz,
        dz, tuple(weights), dpooled, n, c, tuple(cells), tuple(channels), dz.stride(), _channel_strides(weights),
        dpooled.stride(), PRECISION=conv_precision(dz.dtype), **block,
    )  # fmt: skip


def backward_dweights(dz: Tensor, pooled: Tensor, dweights: list[Tensor], settings: Settings) -> None:
    """Fill ``dweights``, one (O_l, C) or (O_l, C, 1, 1) per level."""
    n, c, _ = pooled.shape
    cells, channels = settings.cells, [w.shape[0] for w in dweights]
    block = _block(dz, max(channels), c, n * max(cells))
    programs = sum(triton.cdiv(o, block["BM"]) for o in channels) * triton.cdiv(c, block["BN"])
    launch(
        pyramid_project_bwd_dweights_kernel, (programs,), dz,
        dz, pooled, tuple(dweights), n, c, tuple(cells), tuple(channels), dz.stride(), pooled.stride(),
        _channel_strides(dweights), PRECISION=conv_precision(dz.dtype), **block,
    )  # fmt: skip
