"""``pyramid_pool`` as two matrix products, columns then rows: x is read once, and the backward is two products too.

Two short sums keep the error near that of PyTorch's own pooling, which one long dot product does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.autocast import without_autocast
from .._shared.layout import as_cells, is_channels_last
from .._shared.windows import axis_windows


def supports(problem: Problem) -> str | None:
    if problem.options[0] != "avg":
        return "a maximum is not a matrix product"
    if problem.dtype not in (torch.float32, torch.float64):
        return "sums of half-precision maps need fp32 accumulation inside the product"
    return None


def pays(problem: Problem, sizes: tuple[int, ...]) -> str | None:
    """Measured on two cores with bins 1, 2, 3, 6: below these sizes building the matrices costs more than it saves."""
    n, c, h, w = sizes
    levels, differentiated = problem.options[2:4]
    if levels < 2:
        return "one level is read once anyway"
    if problem.channels_last and not differentiated:
        return "PyTorch's channels_last pooling is as fast without a backward"
    return "too small a map" if n * c * h * w < 2**21 else None


def pyramid_pool(x: Tensor, bins: list[tuple[int, int]], *, mode: str, windows: str) -> Tensor:
    over_columns, over_rows = pooling_matrices(x, bins, windows)
    with without_autocast(x):  # pooling is no convolution: it keeps x's dtype
        if is_channels_last(x):
            return (over_rows @ (over_columns @ x.permute(0, 2, 3, 1)).flatten(1, 2)).transpose(1, 2)
        return as_cells((x @ over_columns.t()).flatten(2) @ over_rows.t(), False)


def pooling_matrices(x: Tensor, bins: list[tuple[int, int]], windows: str) -> tuple[Tensor, Tensor]:
    """(Q, W) and (S, H*Q): one averages along rows for the Q columns of all levels, the other finishes the S cells."""
    rows, columns = (
        [_axis_matrix(level[axis], x.shape[2 + axis], windows, x) for level in bins] for axis in (0, 1)
    )  # [R, H] and [Q, W] per level
    over_columns = torch.cat(columns)
    own = torch.eye(len(over_columns), dtype=x.dtype, device=x.device).split([len(c) for c in columns])
    finished = [(r[:, None, :, None] * o[None, :, None, :]).flatten(2) for r, o in zip(rows, own, strict=True)]
    return over_columns, torch.cat([f.flatten(0, 1) for f in finished])


def _axis_matrix(bins: int, size: int, windows: str, like: Tensor) -> Tensor:
    """(count, size): row i holds 1 / length over window i."""
    axis = axis_windows(bins, size, windows)
    i = torch.arange(axis.count, device=like.device)[:, None]
    start = torch.div(i * axis.step + axis.lead, axis.den, rounding_mode="floor").clamp(min=0)
    end = torch.div((i + 1) * axis.step + axis.tail, axis.den, rounding_mode="floor").clamp(max=size)
    length = torch.full_like(start, axis.step) if axis.den == 1 else end - start
    pixel = torch.arange(size, device=like.device)
    return ((pixel >= start) & (pixel < end)).to(like.dtype) / length
