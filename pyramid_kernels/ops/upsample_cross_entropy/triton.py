"""Triton ``upsample_cross_entropy``.

Forward: one program owns some output pixels and walks through all classes with a running maximum and sum. Backward: one
program owns a strip of one row of the gradient and a block of classes, and gathers from every output row that reads it:
probabilities are computed again, rows are added up first, columns once at the end. So an output pixel is computed
twice, once per source row, in fixed order and without atomics.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...backends import Problem
from .._shared.launch import launch
from .._shared.layout import is_channels_last
from .._shared.resample import accumulator_type, block, block_elements, reads, resampling, sample, support, weight
from .._shared.triton import cannot_launch, tile
from .settings import Settings

#: Output columns of a gather's block, contiguous and channels_last, and partial sums that are added at once.
COLUMNS, COLUMNS_LAST, PARTS = 128, 32, 1024
#: What makes an assertion on labels part of the kernel, and nothing else that Triton checks in debug builds.
ASSERTING = {"debug": True, "sanitize_overflow": False}


def supports(problem: Problem) -> str | None:
    return cannot_launch(problem)


@triton.jit
def labelled(p_target, p_weight, at, m, ignore, ACC: tl.constexpr):
    """Class of each pixel, whether it counts, and its class's weight: 0 where it does not."""
    label = tl.load(p_target + at, m, 0).to(tl.int64)
    live = m & (label != ignore)
    if p_weight is None:
        share = tl.where(live, 1.0, 0.0).to(ACC)
    else:
        share = tl.load(p_weight + label, live, 0.0).to(ACC)
    return label, live, share


@triton.jit
def whole(p_weight, classes, ACC: tl.constexpr):
    """The sum of all classes' weights."""
    if p_weight is None:
        return tl.cast(classes, ACC)
    else:
        acc = tl.zeros([64], ACC)
        for start in range(0, classes, 64):
            c = start + tl.arange(0, 64)
            acc += tl.load(p_weight + c, c < classes, 0.0).to(ACC)
        return tl.sum(acc, 0)


@triton.jit
def upsample_cross_entropy_fwd_kernel(
    p_logits, p_target, p_weight, p_y, p_lse, p_part, shape, strides, full, ignore,
    HIT: tl.constexpr, SMOOTH: tl.constexpr, NONE: tl.constexpr, MODE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    ACC: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program owns BP pixels of one image; part (2, programs) gets its sums of losses and of weights."""
    axis: tl.constexpr = 1 if CHANNELS_LAST else 0
    tiles = tl.cdiv(full[2], BP)
    n, start = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles * BP
    pixel = start + tl.arange(0, BP)
    at, m_p = n * full[2] + pixel, pixel < full[2]
    label, live, share = labelled(p_target, p_weight, at, m_p, ignore, ACC)
    tl.device_assert(
        (label >= 0) & (label < shape[0]) | (live == 0),
        "upsample_cross_entropy: target holds a label that is neither a class of logits nor ignore_index",
    )
    top = tl.full([BP], float("-inf"), ACC)
    total, picked, mean = tl.zeros([BP], ACC), tl.zeros([BP], ACC), tl.zeros([BP], ACC)
    safe = tl.zeros([BP], ACC)
    for start_c in range(0, shape[0], BC):
        p, channel = block(start, start_c, BP, BC, CHANNELS_LAST)
        m = (p < full[2]) & (channel < shape[0])
        v = sample(p_logits + n * strides[0], p, channel, m, shape, strides[1:], full, MODE, ACC)
        picked += tl.sum(tl.where(channel == tl.expand_dims(label, axis), v, 0.0), axis)
        if SMOOTH > 0:
            w = 1.0
            if p_weight is not None:
                w = tl.load(p_weight + channel, channel < shape[0], 0.0).to(ACC)
            mean += tl.sum(tl.where(m, w * v, 0.0), axis)
        v = tl.where(channel < shape[0], v, float("-inf"))
        before, top = top, tl.maximum(top, tl.max(v, axis))
        safe = tl.where(top == float("-inf"), 0.0, top)  # -inf alone is a sum of 0, not NaN
        total = total * tl.exp(before - safe) + tl.sum(tl.exp(v - tl.expand_dims(safe, axis)), axis)
    lse = safe + tl.log(total)
    tl.store(p_lse + at, lse, m_p)
    loss = HIT * share * (lse - picked)
    if SMOOTH > 0:
        loss += SMOOTH * (whole(p_weight, shape[0], ACC) * lse - mean)
    loss = tl.where(live, loss, 0.0)
    if NONE:
        tl.store(p_y + at, loss, m_p)
    else:
        tl.store(p_part + tl.program_id(0), tl.sum(loss, 0))
        tl.store(p_part + tl.num_programs(0) + tl.program_id(0), tl.sum(share, 0))


@triton.jit
def upsample_cross_entropy_sums_kernel(p_part, p_factor, p_y, parts, MEAN: tl.constexpr, BP: tl.constexpr):
    """One program adds up part (2, parts), and from losses and weights makes y and its factor."""
    loss = tl.zeros([BP], p_part.dtype.element_ty)
    count = tl.zeros([BP], p_part.dtype.element_ty)
    for start in range(0, parts, BP):
        i = start + tl.arange(0, BP)
        loss += tl.load(p_part + i, i < parts, 0.0)
        count += tl.load(p_part + parts + i, i < parts, 0.0)
    y, share = tl.sum(loss, 0), tl.sum(count, 0)
    if MEAN:
        tl.store(p_y, y / share)
        tl.store(p_factor, 1.0 / share)
    else:
        tl.store(p_y, y)
        tl.store(p_factor, 1.0)


@triton.jit
def gradient(
    p_dy, p_logits, p_target, p_weight, p_lse, p_factor, every, n, y, p, channel, m, x, m_x, shape, strides, full,
    ignore,
    HIT: tl.constexpr, SMOOTH: tl.constexpr, NONE: tl.constexpr, MODE: tl.constexpr, ACC: tl.constexpr,
    axis: tl.constexpr,
):  # fmt: skip
    """The gradient of upsampled logits at row ``y``, columns ``x`` (``p`` beside ``channel`` in the block).

    ``every`` is the sum of all classes' weights.
    """
    at = n * full[2] + y * full[1] + x
    label, live, share = labelled(p_target, p_weight, at, m_x, ignore, ACC)
    scale = tl.load(p_dy + at, m_x, 0.0) if NONE else tl.load(p_dy) * tl.load(p_factor)
    scale = tl.where(live, scale, 0.0)
    hit, total = HIT * share * scale, HIT * share * scale
    if SMOOTH > 0:
        total += SMOOTH * every * scale
    v = sample(p_logits + n * strides[0], y * full[1] + p, channel, m, shape, strides[1:], full, MODE, ACC)
    lse = tl.expand_dims(tl.load(p_lse + at, m_x, 0.0), axis)
    g = tl.exp(v - lse) * tl.expand_dims(total, axis)
    g -= tl.where(channel == tl.expand_dims(label, axis), tl.expand_dims(hit, axis), 0.0)
    if SMOOTH > 0:
        w = 1.0
        if p_weight is not None:
            w = tl.load(p_weight + channel, channel < shape[0], 0.0).to(ACC)
        g -= w * tl.expand_dims(SMOOTH * scale, axis)
    return g


@triton.jit
def upsample_cross_entropy_bwd_dlogits_kernel(
    p_dy, p_logits, p_target, p_weight, p_lse, p_factor, p_dlogits, shape, strides, out_strides, full, ignore,
    Q: tl.constexpr, HIT: tl.constexpr, SMOOTH: tl.constexpr, NONE: tl.constexpr, MODE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr, BQ: tl.constexpr, BX: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program owns Q columns of row i of one image's gradient, in BC classes; BX output columns at a time."""
    axis: tl.constexpr = 1 if CHANNELS_LAST else 0  # of classes
    strips, blocks = tl.cdiv(shape[2], Q), tl.cdiv(shape[0], BC)
    u = tl.program_id(0)
    j, i = u % strips * Q, u // strips % shape[1]
    start_c = u // (strips * shape[1]) % blocks * BC
    n = (u // (strips * shape[1] * blocks)).to(tl.int64)
    y_low, y_high = support(i, shape[1], full[0], MODE)
    x_low = support(j, shape[2], full[1], MODE)[0]
    x_high = support(tl.minimum(j + Q, shape[2]) - 1, shape[2], full[1], MODE)[1]
    own, channel = block(0, start_c, BQ, BC, CHANNELS_LAST)
    dlogits = tl.zeros_like(own + channel).to(ACC)
    every = whole(p_weight, shape[0], ACC) if SMOOTH > 0 else 0.0
    for start in range(x_low, x_high + 1, BX):
        x = start + tl.arange(0, BX)
        b_x = block(start, start_c, BX, BC, CHANNELS_LAST)[0]
        acc = tl.zeros_like(b_x + channel).to(ACC)
        for y in range(y_low, y_high + 1):
            share = weight(y, i, shape[1], full[0], MODE, ACC)
            taken = reads(y, i, shape[1], full[0], MODE, ACC)
            last = tl.where(taken, x_high, -1)  # a row that takes nothing is not read: it may hold NaN
            m_x, m = x <= last, (b_x <= last) & (channel < shape[0])
            g = gradient(
                p_dy, p_logits, p_target, p_weight, p_lse, p_factor, every, n, y, b_x, channel, m, x, m_x, shape,
                strides, full, ignore, HIT, SMOOTH, NONE, MODE, ACC, axis,
            )  # fmt: skip
            acc += tl.where(m, share * g, 0.0)
        for q in range(Q):
            share = weight(b_x, j + q, shape[2], full[1], MODE, ACC)
            taken = reads(b_x, j + q, shape[2], full[1], MODE, ACC)
            column = tl.sum(tl.where(taken & (b_x <= x_high), share * acc, 0.0), 1 - axis)
            dlogits += tl.where(own == q, tl.expand_dims(column, 1 - axis), 0.0)
    p_dlogits += n * out_strides[0] + channel.to(tl.int64) * out_strides[1] + i.to(tl.int64) * out_strides[2]
    m = (own < Q) & (j + own < shape[2]) & (channel < shape[0])
    tl.store(p_dlogits + (j + own).to(tl.int64) * out_strides[3], dlogits.to(p_dlogits.dtype.element_ty), m)


def _how(logits: Tensor, size: tuple[int, int], settings: Settings) -> dict[str, Any]:
    """What forward and backward are compiled for."""
    shape, smoothing = tuple(logits.shape[1:]), settings.label_smoothing
    return {
        "HIT": 1 - smoothing, "SMOOTH": smoothing / shape[0],
        "MODE": resampling(shape, size, "bilinear", settings.align_corners),
        "CHANNELS_LAST": is_channels_last(logits), "ACC": accumulator_type(logits),
    }  # fmt: skip


def forward(
    logits: Tensor, target: Tensor, weight: Tensor | None, y: Tensor, lse: Tensor, factor: Tensor, settings: Settings
) -> None:
    """Fill y (N, H, W) or (), lse (N, H, W) and, unless nothing is reduced, factor (1,)."""
    n, rows, cols = target.shape
    shape, none = tuple(logits.shape[1:]), settings.reduction == "none"
    bp, bc = tile(is_channels_last(logits), shape[0], rows * cols, block_elements(logits))
    programs = n * triton.cdiv(rows * cols, bp)
    part = torch.empty((2, 0 if none else programs), dtype=lse.dtype, device=lse.device)
    launch(
        upsample_cross_entropy_fwd_kernel, (programs,), logits,
        logits, target, weight, y, lse, part, shape, logits.stride(), (rows, cols, rows * cols),
        settings.ignore_index, NONE=none, BP=bp, BC=bc, **ASSERTING, **_how(logits, (rows, cols), settings),
    )  # fmt: skip
    if not none:
        launch(
            upsample_cross_entropy_sums_kernel, (1,), logits, part, factor, y, programs,
            MEAN=settings.reduction == "mean", BP=min(PARTS, triton.next_power_of_2(max(1, programs))),
        )  # fmt: skip


def backward(
    dy: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, lse: Tensor, factor: Tensor, dlogits: Tensor,
    settings: Settings,
) -> None:  # fmt: skip
    """Fill dlogits (N, C, h, w)."""
    _, rows, cols = target.shape
    n, c, h, w = logits.shape
    last = is_channels_last(logits)
    bx = min(COLUMNS_LAST if last else COLUMNS, triton.next_power_of_2(cols))
    bc = min(triton.next_power_of_2(c), block_elements(logits) // bx)
    # Q columns are read by about (Q + 1) cols / w + 4 outputs: what one block of BX holds.
    q = min(w, max(1, (bx - 4) * w // cols - 1), bx)
    launch(
        upsample_cross_entropy_bwd_dlogits_kernel, (n * triton.cdiv(c, bc) * h * triton.cdiv(w, q),), logits,
        dy, logits, target, weight, lse, factor, dlogits, (c, h, w), logits.stride(), dlogits.stride(),
        (rows, cols, rows * cols), settings.ignore_index, NONE=settings.reduction == "none", Q=q,
        BQ=triton.next_power_of_2(q), BX=bx, BC=bc, maxnreg=255, **_how(logits, (rows, cols), settings),
    )  # fmt: skip
