"""CUDA ``upsample_argmax``: the native call of csrc/upsample_argmax."""

from __future__ import annotations

from torch import Tensor

from .._shared.native import cannot_launch, launch_native
from .settings import Settings

supports = cannot_launch


def forward(logits: Tensor, labels: Tensor, settings: Settings) -> None:
    """Fill labels (N, H, W)."""
    launch_native("upsample_argmax_fwd", (settings,), logits, labels)
