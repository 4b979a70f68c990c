"""CUDA ``upsample_cross_entropy``: the native calls of csrc/upsample_cross_entropy."""

from __future__ import annotations

import torch
from torch import Tensor

from .._shared.native import cannot_launch, core, launch_native
from .settings import Settings

supports = cannot_launch


def forward(
    logits: Tensor, target: Tensor, weight: Tensor | None, y: Tensor, lse: Tensor, factor: Tensor, settings: Settings
) -> None:
    """Fill y (N, H, W) or (), lse (N, H, W) and, unless nothing is reduced, factor (1,)."""
    if settings.reduction == "none":
        launch_native("upsample_cross_entropy_fwd", (settings,), logits, target, weight, y, lse, None)
        return
    # Of a problem that the launch below refuses, in its own words, there are -1.
    parts = core(logits.device.type).upsample_cross_entropy_parts(logits, target)
    part = torch.empty((2, max(parts, 0)), dtype=lse.dtype, device=lse.device)
    launch_native("upsample_cross_entropy_fwd", (settings,), logits, target, weight, None, lse, part)
    launch_native("upsample_cross_entropy_sums", (settings,), logits, part, y, factor)


def backward(
    dy: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, lse: Tensor, factor: Tensor, dlogits: Tensor,
    settings: Settings,
) -> None:  # fmt: skip
    """Fill dlogits (N, C, h, w)."""
    given = None if settings.reduction == "none" else factor
    tensors = dy, logits, target, weight, lse, given, dlogits
    launch_native("upsample_cross_entropy_bwd_dlogits", (settings,), *tensors)
