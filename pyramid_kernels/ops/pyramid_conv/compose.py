"""1x1 layers in front of ``pyramid_conv``, multiplied into its weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._shared.checks import check_floating, check_length, check_like


def compose_levels(
    weight: Tensor,
    weights: Sequence[Tensor | None],
    biases: Sequence[Tensor | None] | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The weight and bias of ``pyramid_conv`` on maps *before* their 1x1 layers, where nothing stands in between.

    ``pyramid_conv([conv2d(z_i, weights[i], biases[i]) ...], weight, bias)`` equals ``pyramid_conv(maps, *result)``;
    gradients reach every tensor given. A layer's bias passes through the interpolation unchanged, because its weights
    sum to one; under a 3x3 convolution it would differ at the map's border, where taps see padding, and is refused.

    Args:
        weight: (O, sum D_i, k, k), k = 1 or 3.
        weights: per level (D_i, C_i) or (D_i, C_i, 1, 1), or None for a level without such a layer, which then takes
            the columns that the other levels leave (one level at most).
        biases: per level (D_i,) or None.
        bias: (O,) of the convolution itself, or None.

    Returns:
        (O, sum C_i, k, k) and (O,) or None.

    Raises:
        TypeError, ValueError: naming the argument.

    Source: Xie et al., SegFormer, 2021 (a linear layer per level, then a 1x1 over the concat).
    """
    biases = [None] * len(weights) if biases is None else biases
    check_length("biases", biases, len(weights), "level")
    columns = _columns(weight, weights)
    o, _, kernel, _ = weight.shape
    if kernel != 1 and any(b is not None for b in biases):
        raise ValueError(f"biases must be None for a {kernel}x{kernel} weight, whose taps see padding at the border")
    composed = []
    for i, (part, w, b) in enumerate(zip(columns, weights, biases, strict=True)):
        if b is not None:
            _check_bias(f"biases[{i}]", b, part)
            through = part.flatten(1) @ b
            bias = through if bias is None else bias + through
        # [O, D, k, k] -> [k, k, O, D] @ [D, C]
        composed.append(part if w is None else (part.permute(2, 3, 0, 1) @ w.flatten(1)).permute(2, 3, 0, 1))
    return torch.cat(composed, 1), bias


def _columns(weight: Any, weights: Any) -> tuple[Tensor, ...]:
    """The columns of ``weight`` that each level meets."""
    check_floating("weight", weight)
    if weight.dim() != 4 or tuple(weight.shape[2:]) not in ((1, 1), (3, 3)):
        raise ValueError(f"weight must be (O, sum D_i, 1, 1) or (O, sum D_i, 3, 3), got {tuple(weight.shape)}")
    if not isinstance(weights, list | tuple) or not weights:
        raise ValueError(f"weights must be a non-empty list with one (D, C) tensor or None per level, got {weights!r}")
    for i, w in enumerate(weights):
        if w is not None:
            check_floating(f"weights[{i}]", w)
            if w.dim() not in (2, 4) or any(s != 1 for s in w.shape[2:]):
                raise ValueError(f"weights[{i}] must be (D, C) or (D, C, 1, 1), got {tuple(w.shape)}")
            check_like(f"weights[{i}]", w, "weight", weight)
    left = weight.shape[1] - sum(len(w) for w in weights if w is not None)
    bare = sum(w is None for w in weights)
    if left < 0 or bare > 1 or (bare == 0) != (left == 0):
        raise ValueError(
            f"weights must account for the {weight.shape[1]} input channels of weight, with at most one None, "
            f"got {[None if w is None else len(w) for w in weights]}"
        )
    return weight.split([left if w is None else len(w) for w in weights], 1)


def _check_bias(name: str, bias: Any, part: Tensor) -> None:
    check_floating(name, bias)
    if tuple(bias.shape) != (part.shape[1],):
        raise ValueError(f"{name} must have shape ({part.shape[1]},), that of its level's D, got {tuple(bias.shape)}")
    check_like(name, bias, "weight", part)
