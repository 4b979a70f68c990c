"""CUDA ``upsample_argmax``: the native call of csrc/upsample_argmax."""

from __future__ import annotations

from torch import Tensor

from ...backends import Problem
from .._shared.native import cannot_launch, launch_native
from .settings import Settings


def supports(problem: Problem) -> str | None:
    return cannot_launch(problem)


def forward(logits: Tensor, labels: Tensor, settings: Settings) -> None:
    """Fill labels (N, H, W)."""
    launch_native("upsample_argmax_fwd", (settings,), logits, labels)
