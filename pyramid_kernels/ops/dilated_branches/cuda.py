"""CUDA ``dilated_branches``: the native calls of csrc/dilated_branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.native import architecture, cannot_launch, core, launch_native, multiprocessors
from .._shared.precision import conv_precision
from .chain import channels_last, packed
from .settings import Settings

__all__ = [
    "launch_branches", "launch_dimage", "launch_dw", "launch_dx", "launch_dz", "launch_sums", "pixel_tiles", "planned",
    "supports",
]  # fmt: skip


def supports(problem: Problem) -> str | None:
    if problem.dtype == torch.float64:
        return "no float64 kernel"
    if problem.device == "cuda" and problem.arch < 80:
        return f"needs compute capability 8.0 or newer, got {problem.arch / 10:.1f}"
    return cannot_launch(problem)


def products(x: Tensor, settings: Settings) -> tuple[Any, ...]:
    """What calls that multiply start with."""
    return settings, conv_precision(x.dtype) == "tf32", architecture(x.device), multiprocessors(x.device)


def pixel_tiles(z: Tensor) -> int:
    """How many tiles of pixels ``launch_branches`` writes statistics of ``z`` for."""
    count: int = core(z.device.type).dilated_branches_pixel_tiles(z)
    return count


def planned(x: Tensor, weights: Sequence[Tensor], dilations: Sequence[int], merge: str) -> dict[str, int]:
    """What the launcher would decide for a forward call: body, tile, shares of the work."""
    x, dense = channels_last(x), [packed(w) for w in weights]
    settings = Settings(list(dilations), [], False, merge == "sum")
    found: dict[str, int] = core(x.device.type).dilated_branches_plan(*products(x, settings), x, dense)
    return found


def plan(x: Tensor, weights: Sequence[Tensor], *, dilations: Sequence[int], merge: str = "concat", **_: Any) -> str:
    """One line on what a forward call launches: body, tile, shares of the work and taps that are skipped."""
    p = planned(x, weights, dilations, merge)
    body = "the body for compute capability 9.0" if p["sm90"] else "the body for compute capability 8.0 and later"
    pairs = "pairs of blocks with common weights, " if p["pair"] == 2 else ""
    return (
        f"{body}: tiles of {p['n'] * p['h'] * p['w']} pixels ({p['n']} images x {p['h']} x {p['w']}) by {p['columns']} "
        f"channels, {p['steps'] / max(1, p['dense']):.0%} of all taps; {p['workers']} equal shares of at most "
        f"{p['largest']} steps, {pairs}{p['cuts']} tiles cut"
    )


def launch_branches(
    x: Tensor, weights: list[Tensor], affine: list[Tensor | None], image_bias: Tensor | None, y: Tensor | None,
    z: Tensor | None, part: Tensor | None, settings: Settings,
) -> None:  # fmt: skip
    """One launch for all branches: writes y, the pre-affine z and the tiles' statistics, each if given."""
    blocks = multiprocessors(x.device)
    scratch = torch.empty(blocks * core(x.device.type).dilated_branches_scratch, dtype=torch.uint8, device=x.device)
    launch_native("dilated_branches_fwd", products(x, settings), x, weights, affine, image_bias, y, z, part, scratch)


def launch_dz(
    dy: Tensor, saved: Tensor, weights: list[Tensor], affine: list[Tensor | None], sums: Tensor | None,
    dz: Tensor | None, part: Tensor | None, settings: Settings,
) -> None:  # fmt: skip
    """Write ``dz``, the partial sums, or both; ``sums`` (2, channels) is given for batch statistics."""
    launch_native("dilated_branches_bwd_dz", (settings,), dy, saved, weights, affine, sums, dz, part)


def launch_sums(part: Tensor, sums: Tensor) -> None:
    """(tiles, ...) -> (...), added in a fixed order."""
    launch_native("dilated_branches_bwd_sums", (), part, sums)


def launch_dimage(dz: Tensor, dimage: Tensor, dilation: int) -> None:
    """Fill ``dimage`` (N, O, k*k)."""
    launch_native("dilated_branches_bwd_dimage", (dilation,), dz, dimage)


def launch_dx(dz: Tensor, weights: list[Tensor], dx: Tensor, settings: Settings) -> None:
    """Fill ``dx`` (N, C, H, W)."""
    launch_native("dilated_branches_bwd_dx", products(dz, settings), dz, weights, dx)


def launch_dw(dz: Tensor, x: Tensor, dweights: list[Tensor], splits: int, settings: Settings) -> None:
    """Fill ``dweights``, one (O, C, k, k) per branch, from ``splits`` shares of the pixels."""
    elements = sum(dw.numel() for dw in dweights)
    part = torch.empty((splits if splits > 1 else 0, elements), dtype=torch.float32, device=x.device)
    launch_native("dilated_branches_bwd_dw", (*products(x, settings), splits), dz, x, dweights, part)
