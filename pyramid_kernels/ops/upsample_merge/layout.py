"""How a call is laid out: the memory format of its result, and the launches that its maps are spread over."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

#: Maps per launch of a concat, or of the maps' gradients.
MAPS = 8


def leader(maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """The first map of the output's ``size``, else the first of more than one pixel, else the first.

    A 1x1 map has no layout of its own: both formats have the same strides there.
    """
    sized = (m for m in maps if m.shape[2] == size[0] and m.shape[3] == size[1])
    larger = (m for m in maps if m.shape[2] * m.shape[3] > 1)
    return next(sized, next(larger, maps[0]))


def chunks(maps: list[Tensor], merge: str) -> list[tuple[int, list[Tensor]]]:
    """(first output channel, maps) of every launch: a sum is one, whatever its length, so that it is rounded once."""
    if merge == "sum":
        return [(0, maps)]
    firsts = [sum(m.shape[1] for m in maps[:i]) for i in range(0, len(maps), MAPS)]
    return [(first, maps[i * MAPS : (i + 1) * MAPS]) for i, first in enumerate(firsts)]
