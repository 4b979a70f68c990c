"""CUDA ``dilated_branches_train``: statistics and normalisation, around the convolutions' kernels."""

from __future__ import annotations

from torch import Tensor

from .._shared.native import launch_native
from ..dilated_branches import cuda as branches
from ..dilated_branches.settings import Settings

supports = branches.supports


def launch_statistics(part: Tensor, mean: Tensor, var: Tensor, z: Tensor) -> None:
    """(tiles, 3, channels) of counts, means and squared deviations -> mean and biased variance of ``z``."""
    launch_native("dilated_branches_train_stats", (), part, mean, var, z)


def launch_normalise(
    z: Tensor, weights: list[Tensor], affine: list[Tensor | None], y: Tensor, settings: Settings
) -> None:
    """Fill ``y`` from ``z`` and every branch's (gamma, beta, mean, variance)."""
    launch_native("dilated_branches_train_normalise", (settings,), z, weights, affine, y)
