"""CUDA ``upsample_merge``: the native calls of csrc/upsample_merge."""

from __future__ import annotations

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.layout import is_channels_last
from .._shared.native import cannot_launch, launch_native
from .layout import MAPS, chunks
from .settings import Settings

#: Maps of one sum, which is rounded once and so is one launch.
SUMMED = 16
#: Blocks that share the sums of scale's and shift's gradients, at most so many of them side by side along pixels.
BLOCKS, PARTS = 1024, 512


def supports(problem: Problem) -> str | None:
    _, merge, count = problem.options
    if merge == "sum" and count > SUMMED:
        return f"sums of at most {SUMMED} maps, got {count}"
    return cannot_launch(problem)


def _firsts(maps: list[Tensor], first: int, merge: str) -> list[int]:
    """The first output channel of each map."""
    return [first + (0 if merge == "sum" else sum(m.shape[1] for m in maps[:i])) for i in range(len(maps))]


def forward(maps: list[Tensor], scale: Tensor | None, shift: Tensor | None, y: Tensor, settings: Settings) -> None:
    """Fill ``y`` (N, C_out, H, W), dense in its memory format."""
    for first, some in chunks(maps, settings.merge):
        how = settings, is_channels_last(y), _firsts(some, first, settings.merge)
        launch_native("upsample_merge_fwd", how, some, scale, shift, y)


def backward_maps(
    dy: Tensor, y: Tensor | None, scale: Tensor | None, dmaps: list[Tensor], firsts: list[int], settings: Settings
) -> None:
    """Fill ``dmaps`` (N, C_i, H_i, W_i) from ``dy``, dense in its memory format; map i starts at channel firsts[i]."""
    for i in range(0, len(dmaps), MAPS):
        how = settings, is_channels_last(dy), firsts[i : i + MAPS]
        launch_native("upsample_merge_bwd_dmaps", how, dy, y, scale, dmaps[i : i + MAPS])


def backward_affine(dy: Tensor, y: Tensor | None, maps: list[Tensor], sums: Tensor, settings: Settings) -> None:
    """Fill ``sums`` (1 or 2, C_out): dshift and, where maps are given, dscale."""
    part = torch.empty((sums.shape[0], _parts(dy), dy.shape[1]), dtype=sums.dtype, device=sums.device)
    for first, some in chunks(maps, settings.merge) if maps else [(0, maps)]:
        how = settings, is_channels_last(dy), _firsts(some, first, settings.merge)
        launch_native("upsample_merge_bwd_affine", how, dy, y, some, part)
    launch_native("upsample_merge_sums", (), dy, part, sums)


def _parts(dy: Tensor) -> int:
    """Shares of the pixels: enough that their blocks, times those along channels, fill a GPU."""
    n, c, h, w = dy.shape
    slices = -(-c // (128 if is_channels_last(dy) else 4))
    return max(1, min(PARTS, -(-BLOCKS // max(1, slices)), -(-n * h * w // 256)))
