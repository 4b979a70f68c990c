"""Bilinear upsampling on a CPU in bands of output rows that stay in a core's cache, and its adjoint.

Columns are resampled at the few source rows behind a band, rows are blended after that: no tensor of the output's size
exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import accumulation

#: Elements of a band: 2 MiB of float32. Smaller ones fit a core's own cache, but cost more in calls than that saves.
BAND = 1 << 19
#: Elements of the output rows between two source rows from which a call for each pair of these takes less time than
#: copying the source rows once for every output row.
SHARED = 1 << 15


class Band(NamedTuple):
    """Output rows of image ``n``, the source rows behind them, and what each output row takes from which."""

    n: int
    rows: slice
    sources: slice
    low: Tensor  # (rows,) counted from the first source row
    high: Tensor  # (rows,)
    above: Tensor  # (rows, 1): the weight of ``high``
    runs: list[tuple[slice, slice, slice]]  # rows that share their source rows, the one and the other of these


def bands(x: Tensor, size: Sequence[int], align_corners: bool) -> Iterator[Band]:
    """Every band of x (N, C, h, w) at ``size``, of about ``BAND`` elements, image by image from the top."""
    cut = cutter(x, size, align_corners)
    # Source rows are widened once per band: where classes are many, over as many output rows as share them, or 8.
    step = max(1, BAND // (x.shape[1] * size[1]), min(8, size[0] // x.shape[2]))
    for n in range(x.shape[0]):
        for first in range(0, size[0], step):
            yield cut(n, slice(first, min(first + step, size[0])))


def cutter(x: Tensor, size: Sequence[int], align_corners: bool) -> Callable[[int, slice], Band]:
    """What makes a band of x (N, C, h, w) at ``size`` from the number of an image and output rows."""
    low, above = _positions(x, size[0], align_corners)
    high = (low + 1).clamp_(max=x.shape[2] - 1)
    if _taken(x, size):
        low = high = torch.arange(size[0], device=x.device)
    first, final = low.tolist(), high.tolist()  # once: each read waits for a GPU

    def cut(n: int, rows: slice) -> Band:
        start, last = first[rows.start], final[rows.stop - 1]
        runs = [list(run) for _, run in groupby(range(rows.start, rows.stop), first.__getitem__)]
        shared = [
            (_slice(r[0] - rows.start, len(r)), _slice(first[r[0]] - start), _slice(final[r[0]] - start)) for r in runs
        ]
        return Band(n, rows, slice(start, last + 1), low[rows] - start, high[rows] - start, above[rows, None], shared)

    return cut


def _slice(start: int, length: int = 1) -> slice:
    return slice(start, start + length)


def upsampled(x: Tensor, band: Band, size: Sequence[int], align_corners: bool) -> Tensor:
    """(C, rows, W): x (N, C, h, w) at the output rows of ``band``."""
    source = x[band.n, :, band.sources].to(accumulation(x))
    if _taken(x, size):
        return source.clone() if source.dtype == x.dtype else source
    wide = F.interpolate(source, size[1], mode="linear", align_corners=align_corners)
    below = 1 - band.above
    if wide.shape[0] * size[0] * size[1] < SHARED * x.shape[2]:
        return wide.index_select(1, band.low).mul_(below).addcmul_(wide.index_select(1, band.high), band.above)
    y = wide.new_empty(wide.shape[0], len(band.above), size[1])
    for rows, low, high in band.runs:
        torch.mul(wide[:, low], below[rows], out=y[:, rows]).addcmul_(wide[:, high], band.above[rows])
    return y


def add_adjoint(dx: Tensor, dy: Tensor, band: Band, size: Sequence[int], align_corners: bool) -> None:
    """dx (C, h, w) gains what the gradient dy (C, rows, W) of ``band`` brings it; dy is overwritten."""
    part = dx[:, band.sources]
    if tuple(dx.shape[1:]) == tuple(size):
        part += dy
        return
    wide = dy.new_zeros(dx.shape[0], part.shape[1], size[1])
    wide.index_add_(1, band.low, dy * (1 - band.above)).index_add_(1, band.high, dy.mul_(band.above))
    part += torch.ops.aten.upsample_linear1d_backward(wide, [size[1]], list(part.shape), align_corners, None)


def _taken(x: Tensor, size: Sequence[int]) -> bool:
    return tuple(x.shape[2:]) == tuple(size)


def _positions(x: Tensor, full: int, align_corners: bool) -> tuple[Tensor, Tensor]:
    """ATen's source row below every output row, and the weight of the one after it; positions round once."""
    size, dtype = x.shape[2], accumulation(x)
    ratio = (size - 1) / max(full - 1, 1) if align_corners else size / full
    ratio = torch.tensor(ratio, dtype=dtype).item()
    d = torch.arange(full, dtype=torch.float64, device=x.device)
    position = (d * ratio if align_corners else ((d + 0.5) * ratio - 0.5).clamp_(min=0)).to(dtype)
    low = position.long().clamp_(max=size - 1)
    return low, position - low
