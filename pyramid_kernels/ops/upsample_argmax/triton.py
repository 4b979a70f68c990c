"""Triton ``upsample_argmax``: one program owns some output pixels and walks through all classes."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...backends import Problem
from .._shared.launch import launch
from .._shared.layout import is_channels_last
from .._shared.resample import accumulator_type, block, block_elements, resampling, sample
from .._shared.triton import cannot_launch, tile
from .settings import Settings


def supports(problem: Problem) -> str | None:
    return cannot_launch(problem)


@triton.jit
def upsample_argmax_fwd_kernel(
    p_logits, p_labels, shape, strides, full,
    MODE: tl.constexpr, CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One program owns BP pixels of one image; the first class of the largest, or of NaN, is kept."""
    axis: tl.constexpr = 1 if CHANNELS_LAST else 0
    tiles = tl.cdiv(full[2], BP)
    n, start = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles * BP
    pixel = start + tl.arange(0, BP)
    top = tl.full([BP], float("-inf"), ACC)
    first, first_nan = tl.full([BP], shape[0], tl.int32), tl.full([BP], shape[0], tl.int32)
    for start_c in range(0, shape[0], BC):
        p, channel = block(start, start_c, BP, BC, CHANNELS_LAST)
        m = (p < full[2]) & (channel < shape[0])
        v = sample(p_logits + n * strides[0], p, channel, m, shape, strides[1:], full, MODE, ACC)
        nan = m & (v != v)
        v = tl.where(m & (v == v), v, float("-inf"))
        b_top = tl.max(v, axis)
        b_first = tl.min(tl.where(m & (v == tl.expand_dims(b_top, axis)), channel, shape[0]), axis)
        better = (b_top > top) | (first == shape[0])
        top, first = tl.where(better, b_top, top), tl.where(better, b_first, first)
        first_nan = tl.minimum(first_nan, tl.min(tl.where(nan, channel, shape[0]), axis))
    label = tl.where(first_nan < shape[0], first_nan, first)
    tl.store(p_labels + n * full[2] + pixel, label.to(p_labels.dtype.element_ty), pixel < full[2])


def forward(logits: Tensor, labels: Tensor, settings: Settings) -> None:
    """Fill labels (N, H, W)."""
    n, rows, cols = labels.shape
    shape, last = tuple(logits.shape[1:]), is_channels_last(logits)
    bp, bc = tile(last, shape[0], rows * cols, block_elements(logits))
    launch(
        upsample_argmax_fwd_kernel, (n * triton.cdiv(rows * cols, bp),), logits,
        logits, labels, shape, logits.stride(), (rows, cols, rows * cols),
        MODE=resampling(shape, (rows, cols), "bilinear", settings.align_corners), CHANNELS_LAST=last,
        ACC=accumulator_type(logits), BP=bp, BC=bc,
    )  # fmt: skip
