"""Windows over an image, and the mean of their upsampled logits, in thin bands of rows.

Logits are not added up at low resolution. A window's are upsampled from itself alone, clamped at its own edges: a sum
ahead of that would be another function wherever a window ends inside another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..backends import Backend
from ..console import progress
from ..ops._shared.bands import Band, accumulation, cutter, upsampled
from .logits import Logits, logits_of

#: Elements of a band of added logits: 16 MiB of float32, whatever the image.
BAND = 1 << 22


class Window(NamedTuple):
    """The size of a window and its steps, each (H, W)."""

    size: tuple[int, int]
    stride: tuple[int, int]


class Placed(NamedTuple):
    """A window's logits, and the rows and columns of the image that it covers."""

    logits: Logits
    rows: slice
    columns: slice
    cut: Callable[[int, slice], Band]

    def add_to(self, total: Tensor, first: int) -> None:
        """total (N, C, rows, W), the image's rows from ``first``, gains what this window brings to them."""
        start, stop = max(first, self.rows.start), min(first + total.shape[2], self.rows.stop)
        if start >= stop:
            return
        maps, align_corners = self.logits
        size = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        own = slice(start - self.rows.start, stop - self.rows.start)
        for n in range(len(maps)):
            part = upsampled(maps, self.cut(n, own), size, align_corners)
            total[n, :, start - first : stop - first, self.columns] += part


def sliding_labels(model: nn.Module, image: Tensor, window: Window, backend: Backend) -> tuple[Tensor, str]:
    """(N, H, W): the class of every pixel of image (N, C, H, W) by the mean of the windows over it; and why logits of
    windows were of full size, if they were."""
    height, width = image.shape[2], image.shape[3]
    size = min(window.size[0], height), min(window.size[1], width)
    tops, lefts = _starts(height, size[0], window.stride[0]), _starts(width, size[1], window.stride[1])
    finished = dict(zip(tops, [*tops[1:], height], strict=True))
    live: list[Placed] = []
    labels: list[Tensor] = []
    for top, left in progress(list(product(tops, lefts)), "predict"):
        rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
        logits, reason = logits_of(model, image[:, :, rows, columns])
        live.append(Placed(logits, rows, columns, cutter(logits.maps, size, logits.align_corners)))
        if left == lefts[-1]:  # no window to come reaches above the next row of them
            labels += _labels(live, top, finished[top], width, backend)
            live = [placed for placed in live if placed.rows.stop > finished[top]]
    return torch.cat(labels, 1), reason


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin: every ``stride``, and the last one where it ends with the image."""
    return [*range(0, length - window, stride), length - window]


def _labels(live: list[Placed], top: int, end: int, width: int, backend: Backend) -> Iterator[Tensor]:
    """The labels (N, rows, W) of rows ``top`` to ``end``, band by band."""
    maps = live[0].logits.maps
    n, classes = maps.shape[:2]
    step = max(1, BAND // (max(n, 1) * classes * width))
    for first in range(top, end, step):
        size = min(step, end - first), width
        # A sum in place of the mean: a pixel's windows are as many for every class.
        total = maps.new_zeros(n, classes, *size, dtype=accumulation(maps))
        for placed in live:
            placed.add_to(total, first)
        yield Logits(total, False).labels(size, backend)
