"""The epilogue of an op: its arguments checked into one form, and what it computes, in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_length, check_vector

ACTIVATIONS = (None, "relu")

#: An eval-mode BatchNorm as callers give it: gamma and beta (or None), running mean and variance, eps.
Norm = tuple[Tensor | None, Tensor | None, Tensor, Tensor, float]
#: Multiplier, offset, running mean, running variance; None where absent. The last two come together.
Affine = tuple[Tensor | None, ...]

Vectors = Sequence[Tensor | None] | None


def check_affine(
    x: Tensor,
    weights: Sequence[Tensor],
    scale: Vectors,
    shift: Vectors,
    norm: Sequence[Norm] | None,
    per: str = "branch",
) -> tuple[list[Affine], list[float]]:
    """One ``Affine`` of dense vectors and eps per weight (O, ...) from whichever form was given."""
    if norm is not None and (scale is not None or shift is not None):
        raise ValueError("norm must not be given together with scale or shift; give one form or the other")
    if norm is not None:
        check_length("norm", norm, len(weights), per)
        for i, (entry, w) in enumerate(zip(norm, weights, strict=True)):
            check_norm(f"norm[{i}]", entry, w, x)
        return [dense_vectors(*entry[:4]) for entry in norm], [float(entry[4]) for entry in norm]
    columns = []
    for name, given in (("scale", scale), ("shift", shift)):
        vectors = [None] * len(weights) if given is None else given
        check_length(name, vectors, len(weights), per)
        for i, (t, w) in enumerate(zip(vectors, weights, strict=True)):
            if t is not None:
                check_vector(f"{name}[{i}]", t, w.shape[0], x)
        columns.append(vectors)
    return [dense_vectors(a, b, None, None) for a, b in zip(*columns, strict=True)], [0.0] * len(weights)


def dense_vectors(*vectors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The vectors with stride 1, as kernels read them."""
    return tuple(None if v is None else v.contiguous() for v in vectors)


def check_norm(name: str, norm: Any, weight: Tensor, x: Tensor) -> None:
    """``norm`` is (gamma, beta, mean, var, eps) for the output channels of ``weight``; gamma and beta may be None."""
    check_length(name, norm, 5, "value of (gamma, beta, mean, var, eps)")
    for part, t in zip(("gamma", "beta", "mean", "var"), norm[:4], strict=True):
        if t is not None or part in ("mean", "var"):
            check_vector(f"{name} {part}", t, weight.shape[0], x)


def normalise(z: Tensor, parameters: Affine, eps: float) -> Tensor:
    """Eval-mode batch normalisation, or a per-channel affine, of dimension 1, in the dtype of ``z``."""
    a, b, mean, var = parameters
    if mean is None or var is None:
        return affine(z, a, b)
    # In the dtype of the vectors: PyTorch's CPU kernel for mixed ones rounds the gradient of beta to half precision.
    return batch_norm(z, a, b, mean, var, torch.float64 if z.dtype == torch.float64 else mean.dtype, eps)


def batch_norm(
    z: Tensor, a: Tensor | None, b: Tensor | None, mean: Tensor, var: Tensor, dtype: torch.dtype, eps: float,
    training: bool = False,
) -> Tensor:  # fmt: skip
    """PyTorch's, computed in ``dtype``, its result in that of ``z``; ``training`` writes the batch's mean and variance.

    Of dense vectors: the gradients of a channels_last map on a CPU read strided ones as if they were.
    """
    m, v, a, b = (None if t is None else t.to(dtype) for t in dense_vectors(mean, var, a, b))
    # Momentum 1 makes the running statistics this batch's own.
    return F.batch_norm(z.to(dtype), m, v, a, b, training, 1.0, eps).to(z.dtype)


def affine(y: Tensor, scale: Tensor | None, shift: Tensor | None, relu: bool = False) -> Tensor:
    """``y * scale + shift`` over dimension 1, behind it perhaps a ReLU, in the dtype of ``y``."""
    dtype = y.dtype
    view = (1, -1, *[1] * (y.dim() - 2))
    if scale is not None:
        y = y * scale.view(view)
    if shift is not None:
        y = y + shift.view(view)
    return (y.relu() if relu else y).to(dtype)


def affine_(y: Tensor, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None, relu: bool = False) -> Tensor:
    """``(y + bias) * scale + shift``, behind it perhaps a ReLU, in place as far as gradients allow."""
    if any(v is not None and v.dtype != y.dtype for v in (bias, scale, shift)):
        return affine(affine(y, None, bias), scale, shift, relu)
    bias, scale, shift = (None if v is None else v.view(1, -1, 1, 1) for v in (bias, scale, shift))
    y = y if bias is None else y.add_(bias)
    if scale is not None:  # not addcmul, whose backward makes one full map more
        y = y * scale if scale.requires_grad else y.mul_(scale)
    y = y if shift is None else y.add_(shift)
    return y.relu_() if relu else y
