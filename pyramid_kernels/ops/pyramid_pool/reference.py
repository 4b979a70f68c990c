"""Specification of ``pyramid_pool``: PyTorch's own pooling, one call per level."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.layout import as_cells, is_channels_last
from .._shared.windows import axis_windows, paired
from .settings import Settings


def pyramid_pool(x: Tensor, settings: Settings) -> Tensor:
    """(N, C, H, W) -> (N, C, S): every level pooled and flattened row-major, levels in the order of ``bins``."""
    bins, mode, windows = settings
    levels = [pool_level(x, level, mode, windows).flatten(2) for level in paired(bins)]
    return as_cells(torch.cat(levels, 2), is_channels_last(x))


def pool_level(x: Tensor, level: tuple[int, int], mode: str, windows: str) -> Tensor:
    """One level as (N, C, rows, cols)."""
    if windows == "adaptive":
        return F.adaptive_avg_pool2d(x, level) if mode == "avg" else F.adaptive_max_pool2d(x, level)
    rows, cols = (axis_windows(b, s, windows) for b, s in zip(level, x.shape[2:], strict=True))
    kernel, padding = (rows.step, cols.step), (-rows.lead, -cols.lead)
    if mode == "avg":
        return F.avg_pool2d(x, kernel, kernel, padding, count_include_pad=True)
    return F.max_pool2d(x, kernel, kernel, padding)
