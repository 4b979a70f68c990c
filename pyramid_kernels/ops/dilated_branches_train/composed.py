"""``dilated_branches_train`` for CPUs: the convolutions of ``dilated_branches``, the norms in x's memory format."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..dilated_branches.composed import convolved, pays
from ..dilated_branches.settings import Settings
from .reference import Vectors, normalised

__all__ = ["dilated_branches_train", "pays"]


def dilated_branches_train(
    x: Tensor, weights: Sequence[Tensor], gamma: Vectors, beta: Vectors, image_bias: Tensor | None, settings: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    return normalised(convolved(x, weights, settings.dilations, image_bias), x, gamma, beta, settings)
