"""Which maps are mixed at their own resolution, and where their columns of the weight lie."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

#: Levels per launch of their gradients.
LEVELS = 8
#: Channels at most of a map whose product the merge computes itself: so few that writing the product and reading it
#: again would cost more.
INSIDE = 64


def split(
    maps: Sequence[Sequence[int]], weight: Sequence[int], size: Sequence[int], by_rows: bool = False
) -> tuple[list[int], list[int]]:
    """(maps convolved at the output's size, maps mixed at their own), by place; from shapes (N, C, h, w), (O, C, k, k).

    Mixed are maps smaller than the output, from the smallest on, as long as all their products together take no more
    memory than the concat that they replace. ``by_rows``: as the composed form has it, one row of taps of one level at
    a time, and that with its columns resampled.
    """
    o, channels, k, _ = weight
    pixels = size[0] * size[1]
    room = channels * pixels
    whole, mixed = [], []
    places = range(len(maps))
    # By rows the order says nothing; and what is traced cannot be sorted by a size.
    for i in places if by_rows else sorted(places, key=lambda i: maps[i][2] * maps[i][3]):
        rows, cells = maps[i][2], maps[i][2] * maps[i][3]
        needed = o * (k * cells + rows * size[1]) if by_rows else k * k * o * cells
        if cells < pixels and needed <= room:
            mixed.append(i)
            room -= 0 if by_rows else needed
        else:
            whole.append(i)
    return sorted(whole), sorted(mixed)


def inside(maps: Sequence[Sequence[int]], weight: Sequence[int], size: Sequence[int]) -> int | None:
    """The map that the merge of a 1x1 multiplies itself: the only one that is not mixed, of ``size``, few channels."""
    whole, mixed = split(maps, weight, size)
    if len(whole) != 1 or not mixed or weight[2] != 1:
        return None
    _, c, *own = maps[whole[0]]
    return whole[0] if c <= INSIDE and own == list(size) else None


def split_maps(maps: Sequence[Tensor], weight: Tensor, size: Sequence[int], **how: bool) -> tuple[list[int], list[int]]:
    return split([m.shape for m in maps], weight.shape, size, **how)


def columns(maps: Sequence[Tensor], weight: Tensor) -> list[Tensor]:
    """Per map its (O, C_i, k, k) of the weight, a view."""
    return list(weight.split([m.shape[1] for m in maps], 1))


def taps_first(columns: Tensor) -> Tensor:
    """(O, C, k, k) as the 1x1 weight (k * k * O, C, 1, 1) that gives every tap's product."""
    o, c, k, _ = columns.shape
    return columns.permute(2, 3, 0, 1).reshape(k * k * o, c, 1, 1)
