"""Specification of ``max_pool_pyramid``: stride-1 pools, each of x or, in a cascade, of the one before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.layout import placed
from .settings import Settings


def max_pool_pyramid(x: Tensor, settings: Settings) -> Tensor:
    """(N, C, H, W) -> (N, C * (1 + K), H, W)."""
    return concatenated(pooled(x, settings), x, settings)


def pooled(x: Tensor, settings: Settings) -> list[Tensor]:
    """x and every level."""
    maps = [x]
    for k in settings.kernel_sizes:
        maps.append(F.max_pool2d(maps[-1] if settings.cascade else x, k, 1, k // 2))
    return maps


def concatenated(maps: list[Tensor], x: Tensor, settings: Settings) -> Tensor:
    """The result's channels in their order, in the memory format of ``x``."""
    return placed(torch.cat(maps if settings.order == "ascending" else maps[::-1], 1), x)
