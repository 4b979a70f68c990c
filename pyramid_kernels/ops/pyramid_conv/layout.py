"""Which maps are mixed at their own resolution, and where their columns of the weight lie."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

#: Levels per launch of their gradients.
LEVELS = 8


def split(maps: Sequence[Tensor], weight: Tensor, size: Sequence[int]) -> tuple[list[int], list[int]]:
    """(maps convolved at the output's size, maps mixed at their own), by place.

    Mixed are maps smaller than the output, from the smallest on, as long as all their products together take no more
    memory than the concat that they replace.
    """
    o, channels, taps = weight.shape[0], weight.shape[1], weight.shape[2] * weight.shape[3]
    pixels = size[0] * size[1]
    room = channels * pixels
    whole, mixed = [], []
    for i in sorted(range(len(maps)), key=lambda i: maps[i].shape[2] * maps[i].shape[3]):
        cells = maps[i].shape[2] * maps[i].shape[3]
        if cells < pixels and taps * o * cells <= room:
            mixed.append(i)
            room -= taps * o * cells
        else:
            whole.append(i)
    return sorted(whole), sorted(mixed)


def columns(maps: Sequence[Tensor], weight: Tensor) -> list[Tensor]:
    """Per map its (O, C_i, k, k) of the weight, a view."""
    return list(weight.split([m.shape[1] for m in maps], 1))


def taps_first(columns: Tensor) -> Tensor:
    """(O, C, k, k) as the 1x1 weight (k * k * O, C, 1, 1) that gives every tap's product."""
    o, c, k, _ = columns.shape
    return columns.permute(2, 3, 0, 1).reshape(k * k * o, c, 1, 1)
