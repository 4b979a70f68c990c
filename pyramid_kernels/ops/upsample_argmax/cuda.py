"""CUDA ``upsample_argmax``: fills the native call of csrc/upsample_argmax."""

from __future__ import annotations

from torch import Tensor

from ...backends import Problem
from .._shared.native import LABELS, call, cannot_launch, located


def supports(problem: Problem) -> str | None:
    return cannot_launch(problem)


def forward(logits: Tensor, labels: Tensor, align_corners: bool) -> None:
    """Fill labels (N, H, W)."""
    size = list(labels.shape[1:])
    call("upsample_argmax_fwd", logits, located(logits), size, align_corners, LABELS[labels.dtype], labels.data_ptr())
