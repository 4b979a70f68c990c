"""Specification of ``separable_pyramid``: pool, depthwise 3x3, pointwise 1x1 and resize per level, then the concat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.layout import as_map
from .._shared.windows import paired
from ..pyramid_pool.reference import pool_level
from ..upsample_merge.reference import resize
from .settings import Settings


def separable_pyramid(
    x: Tensor, depthwise: Sequence[Tensor], pointwise: Sequence[Tensor], bias: Sequence[Tensor | None],
    settings: Settings,
) -> Tensor:  # fmt: skip
    """(N, C, H, W) -> (N, [C +] sum O, H, W), levels in the order of the bins."""
    maps = [x] if settings.include_input else []
    for level, d, p, b in zip(paired(settings.bins), depthwise, pointwise, bias, strict=True):
        cells = pool_level(x, level, "avg", settings.windows)
        filtered = F.conv2d(cells, d, padding=1, groups=x.shape[1])
        mixed = F.conv2d(filtered, p, None if b is None else b.to(x.dtype))
        maps.append(resize(mixed, (x.shape[2], x.shape[3]), "bilinear", False))
    return as_map(torch.cat(maps, 1), x)
