"""Specification of ``pyramid_project``: a 1x1 convolution per level of packed cells, then norm or affine, then ReLU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.affine import affine
from .._shared.layout import as_cells, cells_are_channels_last

Norm = tuple[Tensor | None, Tensor | None, Tensor, Tensor, float]


def pyramid_project(
    pooled: Tensor,
    grids: Sequence[tuple[int, int]],
    weights: Sequence[Tensor],
    *,
    scale: Sequence[Tensor | None],
    shift: Sequence[Tensor | None],
    norm: Sequence[Norm] | None,
    activation: str | None,
) -> Tensor:
    """(N, C, S) -> (N, sum O, S'): level l in its own channels, row-major from cell 0, zero beyond its grid."""
    cells = [rows * cols for rows, cols in grids]
    levels = []
    for i, (x, w) in enumerate(zip(pooled.split(cells, 2), weights, strict=True)):
        z = F.conv1d(x, w.flatten(1).unsqueeze(2))
        if norm is not None:
            *vectors, eps = norm[i]
            if z.dtype == torch.float64:
                vectors = [v if v is None else v.double() for v in vectors]
            gamma, beta, mean, var = vectors
            z = F.batch_norm(z, mean, var, gamma, beta, training=False, eps=eps)
        y = affine(z, scale[i], shift[i], activation)
        levels.append(F.pad(y, (0, max(cells) - cells[i])))
    return as_cells(torch.cat(levels, 1), cells_are_channels_last(pooled))
