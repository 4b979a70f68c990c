"""Specification of ``dilated_branches``: one convolution, normalisation and activation per branch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.affine import Affine, normalise
from .._shared.layout import as_map


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
    branches = []
    for weight, dilation, parameters, e in zip(weights, dilations, affine, eps, strict=True):
        z = convolve(x, weight, dilation, image_bias)
        y = normalise(z, parameters, e)
        branches.append(torch.relu(y) if activation == "relu" else y)
    return as_map(torch.cat(branches, 1) if merge == "concat" else torch.stack(branches).sum(0), x)


def convolve(x: Tensor, weight: Tensor, dilation: int, image_bias: Tensor | None) -> Tensor:
    """The same-padded convolution, plus what constant image channels add: (N, O, taps) -> (N, O, H, W)."""
    padding = tuple(size // 2 * dilation for size in weight.shape[2:])
    z = F.conv2d(x, weight, padding=padding, dilation=dilation)
    if image_bias is None:
        return z
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=image_bias.dtype, device=x.device)
    inside = F.unfold(ones, weight.shape[2:], dilation, padding)[0]  # [taps, H*W]: 1 where the tap lies inside the map
    return z + (image_bias @ inside).unflatten(2, x.shape[2:]).to(z.dtype)
