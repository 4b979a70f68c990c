"""``dilated_branches`` for CPUs: channels_last convolutions of trimmed kernels.

oneDNN multiplies the padding of an NCHW convolution but skips most of it in channels_last, so one transposition of x
serves every branch; and a row or column of taps that lies outside the map at every pixel is cut from the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.affine import Affine
from .._shared.layout import as_map
from . import reference
from .settings import Settings


def pays(problem: Problem, sizes: tuple[int, ...]) -> str | None:
    """``sizes``: (N, C, H, W) of x, the output channels of all branches, then the dilations of the 3x3 branches."""
    _, c, h, w, outputs, *dilations = sizes
    if problem.dtype != torch.float32:
        return "measured for float32 only"
    dead = any(d >= h or d >= w for d in dilations)
    if problem.channels_last or not dilations:
        return None if dead else "every tap reaches the map, and there is no padding of an NCHW convolution to skip"
    if c * h * w < 1 << 14:
        return None if dead else "on small maps the transposition of x costs what it saves"
    # 21 take three times as long in channels_last on an AMD EPYC, 128 a tenth more, 256 a fifth less than in NCHW.
    few = outputs < 256 * len(dilations)
    return "with fewer than 256 output channels a branch transpositions may cost more than they save" if few else None


def dilated_branches(
    x: Tensor, weights: Sequence[Tensor], affine: Sequence[Affine], image_bias: Tensor | None, settings: Settings
) -> Tensor:
    return reference.merged(convolved(x, weights, settings.dilations, image_bias), x, affine, settings)


def convolved(
    x: Tensor, weights: Sequence[Tensor], dilations: Sequence[int], image_bias: Tensor | None
) -> Iterator[Tensor]:
    """Every branch's convolution of ``x``."""
    last = x.contiguous(memory_format=torch.channels_last)
    return (convolve(last, w, d, image_bias, x) for w, d in zip(weights, dilations, strict=True))


def convolve(last: Tensor, weight: Tensor, dilation: int, image_bias: Tensor | None, x: Tensor) -> Tensor:
    """``reference.convolve`` of ``x`` by way of ``last``, its channels_last form; back in the memory format of ``x``.

    Norms then sum in the order in which the unfused chain has them: PyTorch's channels_last sums are less exact.
    """
    rows, cols = live_taps(weight, dilation, x)
    if image_bias is not None:
        image_bias = image_bias.unflatten(2, weight.shape[2:])[:, :, rows, cols].flatten(2)
    return as_map(reference.convolve(last, weight[:, :, rows, cols], dilation, image_bias), x)


def live_taps(weight: Tensor, dilation: int, x: Tensor) -> tuple[slice, slice]:
    """The rows and columns of taps that reach the map from some pixel."""
    if torch.compiler.is_compiling():  # a question of sizes: each answer would be another graph
        return slice(None), slice(None)
    kernel = weight.shape[2]
    rows, cols = (slice(1, 2) if kernel == 3 and dilation >= size else slice(None) for size in x.shape[2:])
    return rows, cols
