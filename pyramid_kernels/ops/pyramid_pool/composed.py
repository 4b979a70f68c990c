"""``pyramid_pool`` as one matrix product: x is read once for all levels, and the backward is a product too."""

from __future__ import annotations

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.layout import as_cells, is_channels_last
from .._shared.windows import axis_windows


def supports(problem: Problem) -> str | None:
    if problem.options[0] != "avg":
        return "a maximum is not a matrix product"
    if problem.dtype not in (torch.float32, torch.float64):
        return "sums of half-precision maps need fp32 accumulation inside the product"
    return None


def pays(problem: Problem, sizes: tuple[int, ...]) -> str | None:
    _, _, levels = problem.options
    return "one level is read once anyway" if levels < 2 else None


def pyramid_pool(x: Tensor, bins: list[tuple[int, int]], *, mode: str, windows: str) -> Tensor:
    matrix = pooling_matrix(x, bins, windows)
    channels_last = is_channels_last(x)
    if channels_last:
        return (matrix @ x.permute(0, 2, 3, 1).flatten(1, 2)).transpose(1, 2)
    return as_cells(x.flatten(2) @ matrix.t(), channels_last)


def pooling_matrix(x: Tensor, bins: list[tuple[int, int]], windows: str) -> Tensor:
    """(S, H*W): row s averages cell s."""
    levels = []
    for level in bins:
        rows, cols = (
            _axis_matrix(b, s, windows, x) for b, s in zip(level, x.shape[2:], strict=True)
        )  # [rows, H], [cols, W]
        levels.append((rows[:, None, :, None] * cols[None, :, None, :]).flatten(2).flatten(0, 1))
    return torch.cat(levels)


def _axis_matrix(bins: int, size: int, windows: str, like: Tensor) -> Tensor:
    """(count, size): row i holds 1 / length over window i."""
    axis = axis_windows(bins, size, windows)
    i = torch.arange(axis.count, device=like.device)[:, None]
    start = torch.div(i * axis.step + axis.lead, axis.den, rounding_mode="floor").clamp(min=0)
    end = torch.div((i + 1) * axis.step + axis.tail, axis.den, rounding_mode="floor").clamp(max=size)
    length = torch.full_like(start, axis.step) if axis.den == 1 else end - start
    pixel = torch.arange(size, device=like.device)
    return ((pixel >= start) & (pixel < end)).to(like.dtype) / length
