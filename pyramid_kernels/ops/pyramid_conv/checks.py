"""The arguments of ``pyramid_conv``, checked into one form."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._shared.affine import ACTIVATIONS
from .._shared.autocast import autocast
from .._shared.checks import check_choice, check_floating, check_like, check_map, check_vector
from ..upsample_merge.checks import check_mode, output_size


def check_arguments(
    maps: Any, weight: Any, size: Any, mode: str, align_corners: bool, activation: str | None,
    vectors: dict[str, Tensor | None],
) -> tuple[list[Tensor], Tensor, tuple[int, int]]:  # fmt: skip
    """Maps and weight in one dtype, that of autocast inside it, and the result's size."""
    check_mode(mode, align_corners)
    check_choice("activation", activation, ACTIVATIONS)
    target = output_size(maps, size)
    for i, m in enumerate(maps):
        check_map(f"maps[{i}]", m)
        if m.shape[0] != maps[0].shape[0]:
            raise ValueError(f"maps[{i}] must have the N of maps[0], got {tuple(m.shape)} and {tuple(maps[0].shape)}")
    check_weight(weight, sum(m.shape[1] for m in maps))
    first, *cast = autocast(maps[0], *maps[1:], weight)
    for name, t in zip([*(f"maps[{i}]" for i in range(1, len(maps))), "weight"], cast, strict=True):
        check_like(name, t, "maps[0]", first)
    for name, vector in vectors.items():
        if vector is not None:
            check_vector(name, vector, weight.shape[0], first)
    return [first, *cast[:-1]], cast[-1], target


def check_weight(weight: Any, channels: int) -> None:
    """``weight`` is (O, channels, k, k) with k = 1 or 3."""
    check_floating("weight", weight)
    if weight.dim() != 4 or tuple(weight.shape[2:]) not in ((1, 1), (3, 3)) or 0 in weight.shape:
        raise ValueError(
            f"weight must be (O, C, 1, 1) or (O, C, 3, 3), C being the sum of the maps' channels, "
            f"got {tuple(weight.shape)}"
        )
    if weight.shape[1] != channels:
        raise ValueError(
            f"weight must have {channels} input channels, the sum of the maps', got {weight.shape[1]} in "
            f"{tuple(weight.shape)}"
        )
