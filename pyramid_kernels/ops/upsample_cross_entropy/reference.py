"""Specification of ``upsample_cross_entropy``: logits resized to the target, then PyTorch's cross-entropy in fp32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..upsample_merge.reference import resize
from .settings import Settings


def upsample_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None, settings: Settings) -> Tensor:
    """logits (N, C, h, w), target (N, H, W), weight (C,) -> (N, H, W) for "none", else ()."""
    align_corners, ignore_index, label_smoothing, reduction = settings
    wide = torch.promote_types(logits.dtype, torch.float32)
    full = resize(logits, (target.shape[1], target.shape[2]), "bilinear", align_corners)
    return F.cross_entropy(
        full.to(wide), target.long(), None if weight is None else weight.to(wide), ignore_index=ignore_index,
        label_smoothing=label_smoothing, reduction=reduction,
    )  # fmt: skip
