"""``dilated_branches_train`` for CPUs: the convolutions of ``dilated_branches``, the norms in x's memory format."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..dilated_branches.composed import convolve, pays, supports
from .reference import normalised

__all__ = ["dilated_branches_train", "pays", "supports"]


def dilated_branches_train(
    x: Tensor,
    weights: Sequence[Tensor],
    *,
    dilations: Sequence[int],
    gamma: Sequence[Tensor | None],
    beta: Sequence[Tensor | None],
    eps: Sequence[float],
    activation: str | None,
    image_bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    last = x.contiguous(memory_format=torch.channels_last)
    maps = [convolve(last, w, d, image_bias, x) for w, d in zip(weights, dilations, strict=True)]
    return normalised(maps, x, gamma, beta, eps, activation)
