"""Specification of ``max_pool_pyramid``: stride-1 pools, each of x or, in a cascade, of the one before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.layout import placed


def max_pool_pyramid(x: Tensor, kernel_sizes: list[int], *, cascade: bool, order: str) -> Tensor:
    """(N, C, H, W) -> (N, C * (1 + K), H, W)."""
    return concatenated(pooled(x, kernel_sizes, cascade), x, order)


def pooled(x: Tensor, kernel_sizes: list[int], cascade: bool) -> list[Tensor]:
    """x and every level."""
    maps = [x]
    for k in kernel_sizes:
        maps.append(F.max_pool2d(maps[-1] if cascade else x, k, 1, k // 2))
    return maps


def concatenated(maps: list[Tensor], x: Tensor, order: str) -> Tensor:
    """The result's channels in ``order``, in the memory format of ``x``."""
    return placed(torch.cat(maps if order == "ascending" else maps[::-1], 1), x)
