"""``dilated_branches_train`` for CPUs: the convolutions of ``dilated_branches``, the norms in x's memory format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..dilated_branches.composed import convolved, pays
from .reference import normalised

__all__ = ["dilated_branches_train", "pays"]


def dilated_branches_train(
    x: Tensor, weights: Sequence[Tensor], *, dilations: Sequence[int], image_bias: Tensor | None, **behind: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return normalised(convolved(x, weights, dilations, image_bias), x, **behind)
