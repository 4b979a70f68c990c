"""Specification of ``pyramid_project``: a 1x1 convolution per level of packed cells, then norm or affine, then ReLU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.affine import Affine, normalise
from .._shared.layout import as_cells, cells_are_channels_last


def pyramid_project(
    pooled: Tensor,
    grids: Sequence[tuple[int, int]],
    weights: Sequence[Tensor],
    *,
    affine: Sequence[Affine],
    eps: Sequence[float],
    activation: str | None,
) -> Tensor:
    """(N, C, S) -> (N, sum O, S'): level l in its own channels, row-major from cell 0, zero beyond its grid."""
    cells = [rows * cols for rows, cols in grids]
    levels = []
    for i, (x, w) in enumerate(zip(pooled.split(cells, 2), weights, strict=True)):
        z = F.conv1d(x, w.flatten(1).unsqueeze(2))
        y = normalise(z, affine[i], eps[i])
        y = torch.relu(y) if activation == "relu" else y
        levels.append(F.pad(y, (0, max(cells) - cells[i])))
    return as_cells(torch.cat(levels, 1), cells_are_channels_last(pooled))
