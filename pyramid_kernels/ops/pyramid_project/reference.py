"""Specification of ``pyramid_project``: a 1x1 convolution per level of packed cells, then norm or affine, then ReLU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.affine import Affine, normalise
from .._shared.layout import as_cells, cells_are_channels_last
from .settings import Settings


def pyramid_project(pooled: Tensor, weights: Sequence[Tensor], affine: Sequence[Affine], settings: Settings) -> Tensor:
    """(N, C, S) -> (N, sum O, S'): level l in its own channels, row-major from cell 0, zero beyond its grid."""
    cells = settings.cells
    levels = []
    for i, (x, w) in enumerate(zip(pooled.split(cells, 2), weights, strict=True)):
        z = F.conv1d(x, w.flatten(1).unsqueeze(2))
        y = normalise(z, affine[i], settings.eps[i])
        y = torch.relu(y) if settings.relu else y
        levels.append(F.pad(y, (0, max(cells) - cells[i])))
    return as_cells(torch.cat(levels, 1), cells_are_channels_last(pooled))
