"""CUDA ``upsample_cross_entropy``: fills the native calls of csrc/upsample_cross_entropy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.native import DTYPES, LABELS, call, cannot_launch, core, located, pointer
from .settings import Settings


def supports(problem: Problem) -> str | None:
    return cannot_launch(problem)


def _problem(logits: Tensor, target: Tensor, weight: Tensor | None, settings: Settings) -> tuple[Any, ...]:
    return (
        located(logits), list(target.shape[1:]), settings.align_corners, [target.data_ptr(), LABELS[target.dtype]],
        settings.ignore_index, pointer(weight), settings.label_smoothing,
    )  # fmt: skip


def forward(
    logits: Tensor, target: Tensor, weight: Tensor | None, y: Tensor, lse: Tensor, factor: Tensor, settings: Settings
) -> None:
    """Fill y (N, H, W) or (), lse (N, H, W) and, unless nothing is reduced, factor (1,)."""
    problem = _problem(logits, target, weight, settings)
    if settings.reduction == "none":
        call("upsample_cross_entropy_fwd", logits, *problem, y.data_ptr(), lse.data_ptr(), 0)
        return
    module = core(logits.device.type)
    parts = module.upsample_cross_entropy_parts(DTYPES[logits.dtype], *problem[:2])
    # Of a problem that the launch below refuses, in its own words, there are -1.
    part = torch.empty((2, max(parts, 0)), dtype=lse.dtype, device=lse.device)
    call("upsample_cross_entropy_fwd", logits, *problem, 0, lse.data_ptr(), part.data_ptr())
    mean = settings.reduction == "mean"
    call("upsample_cross_entropy_sums", logits, parts, mean, part.data_ptr(), y.data_ptr(), factor.data_ptr())


def backward(
    dy: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, lse: Tensor, factor: Tensor, dlogits: Tensor,
    settings: Settings,
) -> None:  # fmt: skip
    """Fill dlogits (N, C, h, w)."""
    call(
        "upsample_cross_entropy_bwd_dlogits", logits, *_problem(logits, target, weight, settings), dy.data_ptr(),
        0 if settings.reduction == "none" else factor.data_ptr(), lse.data_ptr(), dlogits.data_ptr(),
        list(dlogits.stride()),
    )  # fmt: skip
