"""CUDA ``dilated_branches``: fills the native calls of csrc/dilated_branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.native import DTYPES, architecture, call, cannot_launch, core, multiprocessors, pointer, vector
from .._shared.precision import conv_precision
from .chain import channels_last, first_channels, packed

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


def branches(
    x: Tensor, c: int, weights: list[Tensor], first: list[int], dilations: list[int],
    affine: Sequence[Tensor | None], eps: list[float], precision: str = "ieee",
) -> tuple[Any, ...]:  # fmt: skip
    """What every call starts with: TF32 or not and sizes; a row per branch; the epsilons."""
    n, _, h, w = x.shape
    rows = []
    for i, (weight, d) in enumerate(zip(weights, dilations, strict=True)):
        vectors = [v for t in affine[4 * i : 4 * i + 4] for v in vector(t, x)]
        strides = weight.stride()
        rows.append(
            [*weight.shape[::2][:2], d, first[i], weight.data_ptr(), strides[0], strides[1], strides[3], *vectors]
        )
    return [precision == "tf32", n, c, h, w, first[-1], architecture(x.device)], rows, eps


def address(t: Tensor | None) -> list[int]:
    """A map as the native calls take it: address and strides; zeros for None."""
    return [0] * 5 if t is None else [t.data_ptr(), *t.stride()]


def pixel_tiles(z: Tensor) -> int:
    """How many tiles of pixels ``launch_branches`` writes statistics of ``z`` for."""
    count: int = core(z.device.type).dilated_branches_pixel_tiles(z.shape[0], *z.shape[2:])
    return count


def planned(x: Tensor, weights: Sequence[Tensor], dilations: Sequence[int], merge: str) -> dict[str, int]:
    """What the launcher would decide for a forward call: body, tile, shares of the work."""
    x, dense = channels_last(x), [packed(w) for w in weights]
    vectors = [None] * 4 * len(weights)
    precision = conv_precision(x.dtype)
    problem = branches(x, x.shape[1], dense, first_channels(dense), list(dilations), vectors, [], precision)
    where = DTYPES[x.dtype], 0, 0
    found: dict[str, int] = core(x.device.type).dilated_branches_plan(
        *where, *problem, address(x), merge == "sum", multiprocessors(x.device)
    )
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
    z: Tensor | None, part: Tensor | None, dilations: list[int], eps: list[float], relu: bool, merged: bool,
    precision: str,
) -> None:  # fmt: skip
    """One launch for all branches: writes y, the pre-affine z and the tiles' statistics, each if given."""
    blocks = multiprocessors(x.device)
    scratch = torch.empty(blocks * core(x.device.type).dilated_branches_scratch, dtype=torch.uint8, device=x.device)
    problem = branches(x, x.shape[1], weights, first_channels(weights), dilations, affine, eps, precision)
    call(
        "dilated_branches_fwd", x, *problem, address(x), pointer(image_bias), address(y), pointer(z), pointer(part),
        relu, merged, scratch.data_ptr(), blocks,
    )  # fmt: skip


def launch_dz(
    dy: Tensor, saved: Tensor, weights: list[Tensor], affine: list[Tensor | None], sums: Tensor | None,
    dz: Tensor | None, part: Tensor | None, eps: list[float], relu: bool, merged: bool, kept: bool,
) -> None:  # fmt: skip
    """Write ``dz``, the partial sums, or both; ``sums`` (2, channels) is given for batch statistics."""
    problem = branches(dy, weights[0].shape[1], weights, first_channels(weights), [1] * len(weights), affine, eps)
    needed = saved if relu or kept else None
    call(
        "dilated_branches_bwd_dz", dy, *problem, address(dy), address(needed), pointer(sums), pointer(dz),
        pointer(part), relu, merged, kept,
    )  # fmt: skip


def launch_sums(part: Tensor, sums: Tensor) -> None:
    """(tiles, ...) -> (...), added in a fixed order."""
    call("dilated_branches_bwd_sums", part, part.data_ptr(), sums.data_ptr(), part.shape[0], sums.numel())


def launch_dimage(dz: Tensor, dimage: Tensor, o: int, kernel: int, dilation: int) -> None:
    """Fill ``dimage`` (N, O, k*k)."""
    n, _, h, w = dz.shape
    call("dilated_branches_bwd_dimage", dz, [n, h, w, o, kernel, dilation], address(dz), dimage.data_ptr())


def launch_dx(
    dz: Tensor, weights: list[Tensor], dx: Tensor, first: list[int], dilations: list[int], precision: str
) -> None:
    """Fill ``dx`` (N, C, H, W)."""
    problem = branches(dz, dx.shape[1], weights, first, dilations, [None] * 4 * len(weights), [], precision)
    call("dilated_branches_bwd_dx", dz, *problem, address(dz), address(dx))


def launch_dw(
    dz: Tensor, x: Tensor, dweights: list[Tensor], first: list[int], dilations: list[int], splits: int, precision: str
) -> None:
    """Fill ``dweights``, one (O, C, k, k) per branch, from ``splits`` shares of the pixels."""
    elements = sum(dw.numel() for dw in dweights)
    part = torch.empty((splits if splits > 1 else 0, elements), dtype=torch.float32, device=x.device)
    problem = branches(x, x.shape[1], dweights, first, dilations, [None] * 4 * len(dweights), [], precision)
    call("dilated_branches_bwd_dw", x, *problem, address(dz), address(x), part.data_ptr(), splits)
