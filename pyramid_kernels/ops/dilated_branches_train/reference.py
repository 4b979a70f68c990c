"""Specification of ``dilated_branches_train``: branches followed by BatchNorm with the batch's own statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .._shared.affine import batch_norm
from .._shared.layout import as_map
from ..dilated_branches.reference import convolve
from ..dilated_branches.settings import Settings

Vectors = Sequence[Tensor | None]


def dilated_branches_train(
    x: Tensor, weights: Sequence[Tensor], gamma: Vectors, beta: Vectors, image_bias: Tensor | None, settings: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    maps = (convolve(x, w, d, image_bias) for w, d in zip(weights, settings.dilations, strict=True))
    return normalised(maps, x, gamma, beta, settings)


def normalised(
    maps: Iterable[Tensor], x: Tensor, gamma: Vectors, beta: Vectors, settings: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    """Every convolved map normalised by its own statistics, activated and concatenated; means; biased variances."""
    wide = torch.promote_types(x.dtype, torch.float32)
    branches, means, variances = [], [], []
    for z, a, b, e in zip(maps, gamma, beta, settings.eps, strict=True):
        # The count's correction gives the biased variance, at no second pass.
        mean, var = (z.new_zeros(z.shape[1], dtype=wide) for _ in range(2))
        y = batch_norm(z, a, b, mean, var, wide, e, training=True)
        count = max(1, z.numel() // z.shape[1])
        branches.append(torch.relu(y) if settings.relu else y)
        means.append(mean)
        variances.append(var * ((count - 1) / count))
    return as_map(torch.cat(branches, 1), x), torch.cat(means), torch.cat(variances)
