"""Specification of ``dilated_branches_train``: branches followed by BatchNorm with the batch's own statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .._shared.affine import batch_norm
from .._shared.layout import as_map
from ..dilated_branches.reference import convolve


def dilated_branches_train(
    x: Tensor,
    weights: Sequence[Tensor],
    *,
    dilations: Sequence[int],
    gamma: Sequence[Tensor | None],
    beta: Sequence[Tensor | None],
    eps: Sequence[float],
    activation: str | None,
    image_bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    maps = (convolve(x, w, d, image_bias) for w, d in zip(weights, dilations, strict=True))
    return normalised(maps, x, gamma, beta, eps, activation)


def normalised(
    maps: Iterable[Tensor], x: Tensor, gamma: Sequence[Tensor | None], beta: Sequence[Tensor | None],
    eps: Sequence[float], activation: str | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Every convolved map normalised by its own statistics, activated and concatenated; means; biased variances."""
    wide = torch.promote_types(x.dtype, torch.float32)
    branches, means, variances = [], [], []
    for z, a, b, e in zip(maps, gamma, beta, eps, strict=True):
        # The count's correction gives the biased variance, at no second pass.
        mean, var = (z.new_zeros(z.shape[1], dtype=wide) for _ in range(2))
        y = batch_norm(z, a, b, mean, var, wide, e, training=True)
        count = max(1, z.numel() // z.shape[1])
        branches.append(torch.relu(y) if activation == "relu" else y)
        means.append(mean)
        variances.append(var * ((count - 1) / count))
    return as_map(torch.cat(branches, 1), x), torch.cat(means), torch.cat(variances)
