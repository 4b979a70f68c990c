"""CUDA ``pyramid_project``: fills the native calls, eight levels at a time (csrc/pyramid_project)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from torch import Tensor

from ...backends import Problem
from .._shared.native import call, cannot_launch, packed, pointer, vector
from .._shared.precision import conv_precision

#: Levels per launch, as csrc/pyramid_project/pyramid_project.h has it.
LEVELS = 8

Vectors = list[list[Tensor | None]]


def supports(problem: Problem) -> str | None:
    return cannot_launch(problem)


def forward(
    pooled: Tensor, cells: list[int], weights: list[Tensor], vectors: Vectors, eps: list[float], relu: bool,
    y: Tensor, z: Tensor | None,
) -> None:  # fmt: skip
    """Fill ``y`` (N, sum O, S') and, unless None, ``z``: the products before the epilogue, with y's strides."""
    n, c, _ = pooled.shape
    channels = [w.shape[0] for w in weights]
    for part, x, out, saved in _parts(cells, channels, pooled, y, z):
        levels = _levels(pooled, cells[part], channels[part], weights[part], [v[part] for v in vectors])
        sizes = [_tf32(pooled), n, c, y.shape[2], relu]
        call("pyramid_project_fwd", pooled, sizes, levels, eps[part], packed(x), packed(out), pointer(saved))


def backward_dz(
    dy: Tensor, y: Tensor | None, z: Tensor | None, cells: list[int], channels: list[int], vectors: Vectors,
    eps: list[float], dz: Tensor, sums: Tensor,
) -> None:  # fmt: skip
    """Fill ``dz``, zero beyond every level's cells, and ``sums`` (2, sum O): dgain (0 without ``z``) and dbias."""
    n, _, full = dy.shape
    rows = sums.unsqueeze(2)  # [2, sum O, 1]
    for part, _x, b_dy, b_y, b_z, b_dz, out in _parts(cells, channels, None, dy, y, z, dz, rows):
        levels = _levels(dy, cells[part], channels[part], None, [v[part] for v in vectors])
        saved = next(t for t in (b_y, b_z, b_dy) if t is not None)  # y and z have the same strides
        call(
            "pyramid_project_bwd_dz", dy, [0, n, 1, full], levels, eps[part], packed(b_dy), pointer(b_dz),
            packed(saved), pointer(b_y), pointer(b_z), pointer(out), sums.stride(0),
        )  # fmt: skip


def backward_dpooled(dz: Tensor, weights: list[Tensor], cells: list[int], dpooled: Tensor) -> None:
    """Fill ``dpooled`` (N, C, S)."""
    n, c, _ = dpooled.shape
    channels = [w.shape[0] for w in weights]
    for part, dx, b_dz in _parts(cells, channels, dpooled, dz):
        levels = _levels(dz, cells[part], channels[part], weights[part])
        sizes = [_tf32(dz), n, c, dz.shape[2]]
        call("pyramid_project_bwd_dpooled", dz, sizes, levels, [], packed(b_dz), packed(dx))


def backward_dweights(dz: Tensor, pooled: Tensor, cells: list[int], dweights: list[Tensor]) -> None:
    """Fill ``dweights``, one (O_l, C) or (O_l, C, 1, 1) per level."""
    n, c, _ = pooled.shape
    channels = [w.shape[0] for w in dweights]
    for part, x, b_dz in _parts(cells, channels, pooled, dz):
        levels = _levels(dz, cells[part], channels[part], dweights[part])
        sizes = [_tf32(dz), n, c, dz.shape[2]]
        call("pyramid_project_bwd_dweights", dz, sizes, levels, [], packed(b_dz), packed(x))


def _tf32(x: Tensor) -> int:
    return conv_precision(x.dtype) == "tf32"


def _parts(cells: list[int], channels: list[int], pooled: Tensor | None, *maps: Tensor | None) -> Iterator[Any]:
    """(levels, their cells of ``pooled``, their channels of every map) of each launch."""
    if len(cells) <= LEVELS:
        yield slice(None), pooled, *maps
        return
    first_cell, first_channel = ([0, *accumulate(counts)] for counts in (cells, channels))
    for i in range(0, len(cells), LEVELS):
        end = min(i + LEVELS, len(cells))
        yield (
            slice(i, end),
            None if pooled is None else pooled[:, :, first_cell[i] : first_cell[end]],
            *(None if t is None else t[:, first_channel[i] : first_channel[end]] for t in maps),
        )


def _levels(
    like: Tensor, cells: list[int], channels: list[int], weights: list[Tensor] | None,
    vectors: Sequence[list[Tensor | None]] = (),
) -> list[list[int]]:  # fmt: skip
    """Per level: cells, channels, address and strides of the weight; of every vector its address and whether it has
    the dtype of ``like``."""
    levels = []
    for i, (count, o) in enumerate(zip(cells, channels, strict=True)):
        matrix = [0, 0, 0] if weights is None else [pointer(weights[i]), weights[i].stride(0), weights[i].stride(1)]
        levels.append([count, o, *matrix, *(value for v in vectors for value in vector(v[i], like))])
    return levels
