"""Specification of ``aspp``: DeepLab v3's module in eval mode, as published."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.affine import Norm, normalise
from .._shared.layout import as_map
from ..dilated_branches.reference import convolve


def aspp(
    x: Tensor,
    weights: Sequence[Tensor],
    project_weight: Tensor,
    *,
    dilations: Sequence[int],
    norms: Sequence[Norm],
    project_norm: Norm,
    pool_weight: Tensor | None,
    pool_norm: Norm | None,
    pool_first: bool,
) -> Tensor:
    branches = [_unit(x, w, d, norm) for w, d, norm in zip(weights, dilations, norms, strict=True)]
    if pool_weight is not None and pool_norm is not None:
        pooled = _unit(F.adaptive_avg_pool2d(x, 1), pool_weight, 1, pool_norm)
        pooled = F.interpolate(pooled, size=x.shape[2:], mode="bilinear", align_corners=False)
        branches.insert(0 if pool_first else len(branches), pooled)
    return as_map(_unit(torch.cat(branches, 1), project_weight, 1, project_norm), x)


def _unit(x: Tensor, weight: Tensor, dilation: int, norm: Norm) -> Tensor:
    """Convolution, BatchNorm with running statistics, ReLU."""
    return torch.relu(normalise(convolve(x, weight, dilation, None), norm[:4], norm[4]))
