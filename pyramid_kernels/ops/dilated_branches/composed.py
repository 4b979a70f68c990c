"""``dilated_branches`` for CPUs: channels_last convolutions of trimmed kernels.

oneDNN multiplies the padding of an NCHW convolution but skips most of it in channels_last, so one transposition of x
serves every branch; and a row or column of taps that lies outside the map at every pixel is cut from the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.affine import Affine
from .._shared.layout import as_map
from . import reference


def supports(problem: Problem) -> str | None:
    return None


def pays(problem: Problem, sizes: tuple[int, ...]) -> str | None:
    """``sizes``: (N, C, H, W) of x, then the dilations of the 3x3 branches."""
    _, _, h, w, *dilations = sizes
    if problem.dtype != torch.float32:
        return "measured for float32 only"
    dead = any(d >= h or d >= w for d in dilations)
    return None if dead else "every tap reaches the map: the transposition of x costs what it saves"


def dilated_branches(
    x: Tensor,
    weights: Sequence[Tensor],
    *,
    dilations: Sequence[int],
    affine: Sequence[Affine],
    eps: Sequence[float],
    activation: str | None,
    merge: str,
    image_bias: Tensor | None,
) -> Tensor:
    settings: dict[str, Any] = {"affine": affine, "eps": eps, "activation": activation, "merge": merge}
    live = [live_taps(w, d, x) for w, d in zip(weights, dilations, strict=True)]
    if image_bias is not None:
        image_bias = image_bias.unflatten(2, weights[0].shape[2:])[:, :, *live[0]].flatten(2)
    trimmed = [w[:, :, rows, cols] for w, (rows, cols) in zip(weights, live, strict=True)]
    last = x.contiguous(memory_format=torch.channels_last)
    return as_map(reference.dilated_branches(last, trimmed, dilations=dilations, image_bias=image_bias, **settings), x)


def live_taps(weight: Tensor, dilation: int, x: Tensor) -> tuple[slice, slice]:
    """The rows and columns of taps that reach the map from some pixel."""
    kernel = weight.shape[2]
    rows, cols = (slice(1, 2) if kernel == 3 and dilation >= size else slice(None) for size in x.shape[2:])
    return rows, cols
