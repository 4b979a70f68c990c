"""CUDA ``upsample_merge``: fills the native calls of csrc/upsample_merge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.layout import is_channels_last
from .._shared.native import call, cannot_launch, pointer, vector
from .layout import MAPS, chunks

#: Maps of one sum, which is rounded once and so is one launch.
SUMMED = 16
#: Blocks that share the sums of scale's and shift's gradients, at most so many of them side by side along pixels.
BLOCKS, PARTS = 1024, 512

HOW = {("nearest", False): 1, ("bilinear", False): 2, ("bilinear", True): 3}  # as csrc/common/resample.h numbers them


def supports(problem: Problem) -> str | None:
    _, merge, count = problem.options
    if merge == "sum" and count > SUMMED:
        return f"sums of at most {SUMMED} maps, got {count}"
    return cannot_launch(problem)


def _problem(
    full: Tensor, maps: Sequence[Tensor], firsts: Sequence[int], mode: str, align_corners: bool, merge: str
) -> tuple[Any, ...]:
    """The output's shape and format, how maps are resized and merged, and each map with its first output channel."""
    rows = [[m.data_ptr(), *m.shape[1:], first, *m.stride()] for m, first in zip(maps, firsts, strict=True)]
    return list(full.shape), is_channels_last(full), HOW[mode, align_corners], merge == "sum", rows


def _firsts(maps: list[Tensor], first: int, merge: str) -> list[int]:
    """The first output channel of each map."""
    return [first + (0 if merge == "sum" else sum(m.shape[1] for m in maps[:i])) for i in range(len(maps))]


def forward(
    maps: list[Tensor], y: Tensor, mode: str, align_corners: bool, merge: str,
    scale: Tensor | None, shift: Tensor | None, relu: bool,
) -> None:  # fmt: skip
    """Fill ``y`` (N, C_out, H, W), dense in its memory format."""
    for first, some in chunks(maps, merge):
        problem = _problem(y, some, _firsts(some, first, merge), mode, align_corners, merge)
        call("upsample_merge_fwd", y, *problem, *vector(scale, y), *vector(shift, y), relu, y.data_ptr())


def backward_maps(
    dy: Tensor, y: Tensor | None, scale: Tensor | None, dmaps: list[Tensor], firsts: list[int], mode: str,
    align_corners: bool,
) -> None:  # fmt: skip
    """Fill ``dmaps`` (N, C_i, H_i, W_i) from ``dy``, dense in its memory format; map i starts at channel firsts[i]."""
    for i in range(0, len(dmaps), MAPS):
        problem = _problem(dy, dmaps[i : i + MAPS], firsts[i : i + MAPS], mode, align_corners, "concat")
        call("upsample_merge_bwd_dmaps", dy, *problem, dy.data_ptr(), pointer(y), *vector(scale, dy))


def backward_affine(
    dy: Tensor, y: Tensor | None, maps: list[Tensor], sums: Tensor, mode: str, align_corners: bool, merge: str
) -> None:
    """Fill ``sums`` (1 or 2, C_out): dshift and, where maps are given, dscale."""
    total, parts = dy.shape[1], _parts(dy)
    part = torch.empty((sums.shape[0], parts, total), dtype=sums.dtype, device=sums.device)
    for first, some in chunks(maps, merge) if maps else [(0, maps)]:
        problem = _problem(dy, some, _firsts(some, first, merge), mode, align_corners, merge)
        call("upsample_merge_bwd_affine", dy, *problem, dy.data_ptr(), pointer(y), parts, part.data_ptr())
    call("upsample_merge_sums", dy, sums.shape[0], parts, total, part.data_ptr(), sums.data_ptr())


def _parts(dy: Tensor) -> int:
    """Shares of the pixels: enough that their blocks, times those along channels, fill a GPU."""
    n, c, h, w = dy.shape
    slices = -(-c // (128 if is_channels_last(dy) else 4))
    return max(1, min(PARTS, -(-BLOCKS // max(1, slices)), -(-n * h * w // 256)))
