"""``upsample_argmax`` in bands of output rows, which stay in cache."""

from __future__ import annotations

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.bands import bands, upsampled

#: Elements of a band. Fewer tensors of its size live at once than in the loss, and larger ones measured faster.
BAND = 1 << 19


def supports(problem: Problem) -> str | None:
    return None


def pays(problem: Problem, sizes: tuple[int, ...]) -> str | None:
    """``sizes``: N, C, H, W of the logits that are never built."""
    n, c, h, w = sizes
    return "the upsampled logits are small" if n * c * h * w < 2**19 else None


def forward(logits: Tensor, labels: Tensor, align_corners: bool) -> None:
    """Fill labels (N, H, W)."""
    size = labels.shape[1:]
    classes = torch.arange(logits.shape[1], dtype=torch.int32, device=logits.device)[:, None, None]
    for band in bands(logits, size, align_corners, BAND):
        v = upsampled(logits, band, size, align_corners)
        top = v.amax(0)
        # torch.argmax across classes is not vectorised, but it knows NaN.
        first = v.argmax(0) if top.isnan().any() else torch.where(v == top, classes, len(classes)).amin(0)
        labels[band.n, band.rows] = first
