"""The launches of one call, in order: pool, depthwise, pointwise, merge, and back.

``kernels`` is this op's module of a backend: ``pool``, ``project`` and ``merge`` are the same backend's modules of
``pyramid_pool``, ``pyramid_project`` and ``upsample_merge``, ``launch_depthwise`` and ``launch_ddepthwise`` its own.
"""

from __future__ import annotations

from itertools import accumulate
from types import ModuleType

import torch
from torch import Tensor

from .._shared.layout import cells_are_channels_last, empty_cells
from .._shared.windows import grids, paired
from ..pyramid_pool.settings import Settings as PoolSettings
from ..pyramid_project.op import pyramid_levels
from ..pyramid_project.settings import Settings as MixSettings
from ..upsample_merge.settings import Settings as MergeSettings
from .settings import Settings

Levels = list[tuple[int, int]]

MERGING = MergeSettings("bilinear", False, "concat")


def forward(
    kernels: ModuleType, x: Tensor, depthwise: list[Tensor], pointwise: list[Tensor], bias: list[Tensor | None],
    y: Tensor, cells: Tensor, filtered: Tensor, settings: Settings,
) -> None:  # fmt: skip
    """Fill y (N, [C +] sum O, H, W), cells (N, C, S) and filtered (N, C, S)."""
    levels, include_input = _levels(x, settings), settings.include_input
    kernels.pool.forward(x, cells, _no_indices(cells), _pooling(settings))
    kernels.launch_depthwise(cells, depthwise, filtered, levels, False)
    mixed = _empty_mixed(cells, pointwise, levels)
    kernels.project.forward(filtered, pointwise, _vectors(bias), mixed, None, _mixing(levels))
    maps = pyramid_levels(mixed, levels, _channels(pointwise))
    kernels.merge.forward([x, *maps] if include_input else maps, None, None, y, MERGING)


def backward(
    kernels: ModuleType, dy: Tensor, cells: Tensor, filtered: Tensor, depthwise: list[Tensor],
    pointwise: list[Tensor], dx: Tensor, ddepthwise: list[Tensor], dpointwise: list[Tensor], dbias: Tensor,
    needs: list[bool], settings: Settings,
) -> None:  # fmt: skip
    """Fill what ``needs`` asks for: dx through the pyramid, the weights' gradients, and row 1 of dbias (2, sum O)."""
    levels, channels = _levels(dy, settings), _channels(pointwise)
    mixing = _mixing(levels)
    dmixed = _empty_mixed(cells, pointwise, levels)
    first = dy.shape[1] - sum(channels)
    firsts = list(accumulate(channels[:-1], initial=first))
    kernels.merge.backward_maps(dy, None, None, pyramid_levels(dmixed, levels, channels), firsts, MERGING)
    if needs[3]:
        # In place: with no gain and no norm dz is dy.
        none: list[Tensor | None] = [None] * len(levels)
        kernels.project.backward_dz(dmixed, None, None, _vectors(none), dmixed, dbias, channels, mixing)
    if needs[2]:
        kernels.project.backward_dweights(dmixed, filtered, dpointwise, mixing)
    if not (needs[0] or needs[1]):
        return
    dfiltered = _empty_like(cells)
    kernels.project.backward_dpooled(dmixed, pointwise, dfiltered, mixing)
    if needs[1]:
        kernels.launch_ddepthwise(dfiltered, cells, ddepthwise, levels)
    if needs[0]:
        dcells = _empty_like(cells)
        kernels.launch_depthwise(dfiltered, depthwise, dcells, levels, True)
        kernels.pool.backward(dcells, _no_indices(cells), dx, _pooling(settings))


def _levels(x: Tensor, settings: Settings) -> Levels:
    return grids(paired(settings.bins), (x.shape[2], x.shape[3]), settings.windows)


def _pooling(settings: Settings) -> PoolSettings:
    return PoolSettings(settings.bins, "avg", settings.windows)


def _counts(levels: Levels) -> list[int]:
    return [rows * cols for rows, cols in levels]


def _channels(pointwise: list[Tensor]) -> list[int]:
    return [p.shape[0] for p in pointwise]


def _mixing(levels: Levels) -> MixSettings:
    return MixSettings(_counts(levels), [0.0] * len(levels))


def _vectors(bias: list[Tensor | None]) -> list[list[Tensor | None]]:
    """``bias`` as ``pyramid_project`` takes it: gain, bias, mean, variance."""
    none: list[Tensor | None] = [None] * len(bias)
    return [none, bias, none, none]


def _empty_mixed(cells: Tensor, pointwise: list[Tensor], levels: Levels) -> Tensor:
    """(N, sum O, S'), S' the cells of the largest level."""
    last = cells_are_channels_last(cells)
    return empty_cells(last, cells, cells.shape[0], sum(_channels(pointwise)), max(_counts(levels)))


def _empty_like(cells: Tensor) -> Tensor:
    n, c, s = cells.shape
    return empty_cells(cells_are_channels_last(cells), cells, n, c, s)


def _no_indices(cells: Tensor) -> Tensor:
    """What pooling keeps of a maximum: nothing, for an average."""
    return empty_cells(cells_are_channels_last(cells), cells, 0, cells.shape[1], cells.shape[2], torch.int32)
