"""Specification of ``upsample_merge``: one ``interpolate`` per map, then the merge, the affine and the activation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.affine import affine
from .._shared.layout import memory_format
from .layout import leader
from .settings import Settings


def upsample_merge(
    maps: Sequence[Tensor], size: tuple[int, int], scale: Tensor | None, shift: Tensor | None, settings: Settings
) -> Tensor:
    """maps (N, C_i, H_i, W_i) -> (N, sum C_i, *size) for "concat", (N, C, *size) for "sum"."""
    full = [resize(m, size, settings.mode, settings.align_corners) for m in maps]
    y = torch.cat(full, 1) if settings.merge == "concat" else sum_in_order(full)
    y = affine(y, scale, shift, settings.relu)
    return y.to(maps[0].dtype).contiguous(memory_format=memory_format(leader(maps, size)))


def resize(x: Tensor, size: Sequence[int], mode: str, align_corners: bool) -> Tensor:
    """``x`` at ``size``; as it is where it already has that size."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size, mode=mode, align_corners=align_corners if mode == "bilinear" else None)


def sum_in_order(maps: Sequence[Tensor]) -> Tensor:
    """The sum of maps of one shape, rounded after each addition as a chain of ``+`` rounds."""
    y = maps[0]
    for m in maps[1:]:
        y = y + m
    return y
