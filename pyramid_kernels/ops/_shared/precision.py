"""What values are computed in: products of fp32 as PyTorch's *convolution* setting says, sums in at least fp32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def conv_precision(dtype: torch.dtype) -> str:
    """Triton's ``input_precision`` for operands of ``dtype``: "tf32" where PyTorch's convolutions use it, else "ieee".

    ``torch.backends.cudnn.conv.fp32_precision`` also answers for the legacy ``torch.backends.cudnn.allow_tf32`` flag.
    """
    setting = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return "tf32" if dtype == torch.float32 and setting == "tf32" else "ieee"


@contextmanager
def ieee_convolutions() -> Iterator[None]:
    """PyTorch's own fp32 convolutions without TF32 inside the block."""
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def accumulation(x: torch.Tensor) -> torch.dtype:
    """What sums over elements of ``x`` are kept in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
