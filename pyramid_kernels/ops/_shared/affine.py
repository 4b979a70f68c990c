"""The epilogue in PyTorch: per-channel affine, then activation."""

from __future__ import annotations

from torch import Tensor

ACTIVATIONS = (None, "relu")


def affine(y: Tensor, scale: Tensor | None, shift: Tensor | None, activation: str | None) -> Tensor:
    """``activation(y * scale + shift)`` over dimension 1, in the dtype of ``y``."""
    dtype = y.dtype
    view = (1, -1, *[1] * (y.dim() - 2))
    if scale is not None:
        y = y * scale.view(view)
    if shift is not None:
        y = y + shift.view(view)
    return (y.relu() if activation == "relu" else y).to(dtype)
