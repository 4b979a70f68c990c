"""CUDA ``pyramid_project``: the native calls of csrc/pyramid_project, eight levels at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from torch import Tensor

from .._shared.native import cannot_launch, launch_native
from .._shared.precision import conv_precision
from .settings import Settings

#: Levels per launch, as csrc/pyramid_project/pyramid_project.h has it.
LEVELS = 8

Vectors = list[list[Tensor | None]]

supports = cannot_launch


def forward(
    pooled: Tensor, weights: list[Tensor], vectors: Vectors, y: Tensor, z: Tensor | None, settings: Settings
) -> None:
    """Fill ``y`` (N, sum O, S') and, unless None, ``z``: the products before the epilogue, with y's strides."""
    channels = [w.shape[0] for w in weights]
    for part, chosen, x, out, kept in _parts(settings, channels, pooled, y, z):
        some = [v[part] for v in vectors]
        launch_native("pyramid_project_fwd", (chosen, _tf32(pooled)), x, out, kept, weights[part], *some)


def backward_dz(
    dy: Tensor, y: Tensor | None, z: Tensor | None, vectors: Vectors, dz: Tensor, sums: Tensor, channels: list[int],
    settings: Settings,
) -> None:  # fmt: skip
    """Fill ``dz``, zero beyond every level's cells, and ``sums`` (2, sum O): dgain (0 without ``z``) and dbias."""
    for part, chosen, _, *maps in _parts(settings, channels, None, dy, y, z, dz, sums):
        launch_native("pyramid_project_bwd_dz", (chosen, channels[part]), *maps, *(v[part] for v in vectors))


def backward_dpooled(dz: Tensor, weights: list[Tensor], dpooled: Tensor, settings: Settings) -> None:
    """Fill ``dpooled`` (N, C, S)."""
    for part, chosen, dx, b_dz in _parts(settings, [w.shape[0] for w in weights], dpooled, dz):
        launch_native("pyramid_project_bwd_dpooled", (chosen, _tf32(dz)), b_dz, dx, weights[part])


def backward_dweights(dz: Tensor, pooled: Tensor, dweights: list[Tensor], settings: Settings) -> None:
    """Fill ``dweights``, one (O_l, C) or (O_l, C, 1, 1) per level."""
    for part, chosen, x, b_dz in _parts(settings, [w.shape[0] for w in dweights], pooled, dz):
        launch_native("pyramid_project_bwd_dweights", (chosen, _tf32(dz)), b_dz, x, dweights[part])


def _tf32(x: Tensor) -> bool:
    return conv_precision(x.dtype) == "tf32"


def _parts(settings: Settings, channels: list[int], pooled: Tensor | None, *maps: Tensor | None) -> Iterator[Any]:
    """(levels, their settings, their cells of ``pooled``, their channels of every map) of each launch."""
    cells, eps = settings.cells, settings.eps
    if len(cells) <= LEVELS:
        yield slice(None), settings, pooled, *maps
        return
    first_cell, first_channel = ([0, *accumulate(counts)] for counts in (cells, channels))
    for i in range(0, len(cells), LEVELS):
        end = min(i + LEVELS, len(cells))
        yield (
            slice(i, end),
            settings._replace(cells=cells[i:end], eps=eps[i:end]),
            None if pooled is None else pooled[:, :, first_cell[i] : first_cell[end]],
            *(None if t is None else t[:, first_channel[i] : first_channel[end]] for t in maps),
        )
