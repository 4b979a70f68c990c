"""CUDA ``pyramid_pool``: the native calls of csrc/pyramid_pool."""

from __future__ import annotations

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.native import cannot_launch, core, launch_native, multiprocessors
from .._shared.precision import accumulation
from .settings import Settings

#: As csrc/pyramid_pool/pyramid_pool.h has them.
MAX_LEVELS, MAX_BINS = 8, 64


def supports(problem: Problem) -> str | None:
    levels, most, _ = problem.options[2:]
    if levels > MAX_LEVELS:
        return f"at most {MAX_LEVELS} levels, got {levels}"
    if most > MAX_BINS:
        return f"at most {MAX_BINS} bins per level along an axis"
    return cannot_launch(problem)


def parts(x: Tensor, settings: Settings) -> int:
    """How many partial results a forward pass keeps between two launches; 0 where one launch does it all."""
    count: int = core(x.device.type).pyramid_pool_parts(settings, multiprocessors(x.device), x)
    return count


def forward(x: Tensor, y: Tensor, indices: Tensor, settings: Settings) -> None:
    """Fill ``y`` (N, C, S) and, for "max", ``indices``."""
    kept = places = None
    if count := parts(x, settings):
        kept = torch.empty(count, dtype=accumulation(x), device=x.device)
        places = torch.empty(count if settings.mode == "max" else 0, dtype=torch.int32, device=x.device)
    launch_native("pyramid_pool_fwd", (settings, multiprocessors(x.device)), x, y, indices, kept, places)


def backward(dy: Tensor, indices: Tensor, dx: Tensor, settings: Settings) -> None:
    """Fill ``dx`` (N, C, H, W) from ``dy`` (N, C, S), which has the strides of ``indices``."""
    launch_native("pyramid_pool_bwd", (settings, multiprocessors(dx.device)), dy, indices, dx)
