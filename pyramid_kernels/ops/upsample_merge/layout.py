"""Which map decides the memory format of the result."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def leader(maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """The first map of the output's ``size``, else the first of more than one pixel, else the first.

    A 1x1 map has no layout of its own: both formats have the same strides there.
    """
    sized = (m for m in maps if m.shape[2] == size[0] and m.shape[3] == size[1])
    larger = (m for m in maps if m.shape[2] * m.shape[3] > 1)
    return next(sized, next(larger, maps[0]))
