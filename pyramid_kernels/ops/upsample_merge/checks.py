"""The arguments of ``upsample_merge``, checked into one form."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._shared.autocast import promoted
from .._shared.checks import check_choice, check_like, check_map, check_size

MODES, MERGES = ("bilinear", "nearest"), ("concat", "sum")


def check_maps(
    maps: Any, size: Any, mode: str, align_corners: bool, merge: str
) -> tuple[list[Tensor], tuple[int, int]]:
    """The maps in one dtype, and the result's size."""
    check_mode(mode, align_corners)
    check_choice("merge", merge, MERGES)
    target = output_size(maps, size)
    for i, m in enumerate(maps):
        check_map(f"maps[{i}]", m)
    maps = promoted(maps)
    for i, m in enumerate(maps[1:], 1):
        check_like(f"maps[{i}]", m, "maps[0]", maps[0])
        for axis, name in ((0, "N"), (1, "C"))[: 2 if merge == "sum" else 1]:
            if m.shape[axis] != maps[0].shape[axis]:
                raise ValueError(
                    f"maps[{i}] must have the {name} of maps[0] for merge={merge!r}, "
                    f"got {tuple(m.shape)} and {tuple(maps[0].shape)}"
                )
    return maps, target


def check_mode(mode: str, align_corners: bool) -> None:
    """How maps are resized."""
    check_choice("mode", mode, MODES)
    if mode == "nearest" and align_corners:
        raise ValueError("align_corners must be False with mode='nearest', got True; it is an option of 'bilinear'")


def output_size(maps: Any, size: Any) -> tuple[int, int]:
    """The result's size: ``size``, or that of the first map."""
    if not isinstance(maps, list | tuple):
        raise TypeError(f"maps must be a list or tuple of (N, C, H, W) tensors, got {type(maps).__name__}; use [x]")
    if not maps:
        raise ValueError("maps must not be empty; give at least one (N, C, H, W) tensor")
    if size is None:
        check_map("maps[0]", maps[0])
        return maps[0].shape[2], maps[0].shape[3]
    return check_size(size, "(H, W) or None")
