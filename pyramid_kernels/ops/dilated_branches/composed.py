"""``dilated_branches`` for CPUs: channels_last convolutions of trimmed kernels.

oneDNN multiplies the padding of an NCHW convolution but skips most of it in channels_last, so one transposition of x
serves every branch; and a row or column of taps that lies outside the map at every pixel is cut from the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...backends import Problem
from .._shared.layout import as_map
from .reference import Affine, image_term, normalise


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
    last = x.contiguous(memory_format=torch.channels_last)
    branches = []
    for weight, dilation, parameters, e in zip(weights, dilations, affine, eps, strict=True):
        z = trimmed_convolution(last, weight, dilation)
        if image_bias is not None:
            z = z + image_term(image_bias, weight.shape[2], dilation, x).to(z.dtype)
        y = normalise(z, parameters, e)
        branches.append(torch.relu(y) if activation == "relu" else y)
    return as_map(torch.cat(branches, 1) if merge == "concat" else torch.stack(branches).sum(0), x)


def trimmed_convolution(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """The same-padded convolution without the rows and columns of taps that see only padding."""
    kernel = weight.shape[2]
    if kernel == 3 and dilation >= x.shape[2]:
        weight = weight[:, :, 1:2]
    if kernel == 3 and dilation >= x.shape[3]:
        weight = weight[:, :, :, 1:2]
    padding = [size // 2 * dilation for size in weight.shape[2:]]
    return F.conv2d(x, weight, padding=padding, dilation=dilation)
