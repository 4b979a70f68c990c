"""Specification of ``upsample_argmax``: logits resized in fp32, then the first largest class."""

from __future__ import annotations

import torch
from torch import Tensor

from ..upsample_merge.reference import resize
from .settings import Settings


def upsample_argmax(logits: Tensor, settings: Settings) -> Tensor:
    """logits (N, C, h, w) -> (N, *size) class indices."""
    size, align_corners, dtype = settings
    wide = torch.promote_types(logits.dtype, torch.float32)
    return resize(logits.detach().to(wide), size, "bilinear", align_corners).argmax(1).to(dtype)
