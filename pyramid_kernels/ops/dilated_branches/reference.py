"""Specification of ``dilated_branches``: one convolution, normalisation and activation per branch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.layout import as_map

#: Per branch: multiplier, offset, running mean, running variance; None where absent.
Affine = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


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
    """The same-padded convolution, plus what constant image channels add: (N, O, k*k) -> (N, O, H, W)."""
    kernel = weight.shape[2]
    z = F.conv2d(x, weight, padding=kernel // 2 * dilation, dilation=dilation)
    return z if image_bias is None else z + image_term(image_bias, kernel, dilation, x).to(z.dtype)


def image_term(image_bias: Tensor, kernel: int, dilation: int, x: Tensor) -> Tensor:
    """The sum, at every pixel, of ``image_bias`` over the taps that lie inside the map."""
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=image_bias.dtype, device=x.device)
    inside = F.unfold(ones, kernel, dilation, kernel // 2 * dilation)[0]  # [k*k, H*W]
    return (image_bias @ inside).unflatten(2, x.shape[2:])


def normalise(z: Tensor, parameters: Affine, eps: float) -> Tensor:
    """Eval-mode batch normalisation, or a per-channel affine, in z's dtype."""
    a, b, mean, var = parameters
    if mean is not None and var is not None:
        a, b = (None if t is None else t.to(mean.dtype) for t in (a, b))
        return F.batch_norm(z.to(mean.dtype), mean, var, a, b, False, 0.0, eps).to(z.dtype)
    y = z if a is None else z * a[:, None, None]
    return (y if b is None else y + b[:, None, None]).to(z.dtype)
