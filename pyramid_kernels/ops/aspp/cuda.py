"""CUDA ``aspp``: the composition, with every op in it on CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..dilated_branches.cuda import plan as plan_branches
from ..dilated_branches.cuda import supports

__all__ = ["plan", "supports"]


def plan(x: Tensor, weights: Sequence[Tensor], project_weight: Tensor, *, dilations: Sequence[int], **_: Any) -> str:
    """One line on what the branches' launch does."""
    return plan_branches(x, weights, dilations=dilations)
