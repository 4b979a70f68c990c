"""``pyramid_pool`` as sums of sums: x is read once, and a value reaches no cell but those whose windows hold it.

The edges of all levels' windows cut the rows, then the columns, into intervals that no edge crosses; a window is a few
of them. Unlike a product with a matrix of zeros this leaves NaN and infinity where PyTorch's pooling has them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.layout import is_channels_last
from .._shared.windows import Axis, axis_windows, paired
from . import reference
from .settings import Settings


def supports(problem: Problem) -> str | None:
    if problem.options[0] != "avg":
        return "a maximum is not a sum"
    if problem.dtype not in (torch.float32, torch.float64):
        return "sums of half-precision maps are to be rounded once"
    return None


def pays(problem: Problem, sizes: tuple[int, ...]) -> str | None:
    """Measured on one and two cores with bins 1, 2, 3, 6, in both layouts: below these sizes many calls cost more."""
    n, c, h, w = sizes
    if problem.options[2] < 2:
        return "one level is read once anyway"
    return "too small a map" if n * c * h * w < 2**21 else None


def pyramid_pool(x: Tensor, settings: Settings) -> Tensor:
    if torch.compiler.is_compiling():  # a graph would hold for one size alone, and the compiler fuses sums itself
        return reference.pyramid_pool(x, settings)
    last, bins = is_channels_last(x), paired(settings.bins)
    levels = [[axis_windows(b, s, settings.windows) for b, s in zip(level, x.shape[2:], strict=True)] for level in bins]
    rows, columns = (edges(axes) for axes in zip(*levels, strict=True))
    dim = 1 if last else 2
    parts = interval_sums(x.permute(0, 2, 3, 1) if last else x, rows, dim)
    parts = interval_sums(parts, columns, dim + 1)
    cells = [means(means(parts, a, rows, dim), b, columns, dim + 1).flatten(dim, dim + 1) for a, b in levels]
    packed = torch.cat(cells, dim)
    return packed.transpose(1, 2) if last else packed


def edges(axes: Sequence[Axis]) -> list[int]:
    """Where windows of any level start or end, and the two ends of the axis."""
    return sorted({0, axes[0].size} | {edge for a in axes for i in range(a.count) for edge in (a.start(i), a.end(i))})


def interval_sums(x: Tensor, edges: list[int], dim: int) -> Tensor:
    """The sum between every two edges, along ``dim``."""
    lengths = [b - a for a, b in zip(edges, edges[1:], strict=False)]
    return torch.stack([part.sum(dim) for part in x.split(lengths, dim)], dim)


def means(parts: Tensor, axis: Axis, edges: list[int], dim: int) -> Tensor:
    """The mean over every window of ``axis``, along ``dim``, from the sums between ``edges``."""
    spans = [(edges.index(axis.start(i)), edges.index(axis.end(i)), axis.length(i)) for i in range(axis.count)]
    return torch.stack([parts.narrow(dim, a, b - a).sum(dim) / length for a, b, length in spans], dim)
