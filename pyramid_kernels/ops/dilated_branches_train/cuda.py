"""CUDA ``dilated_branches_train``: the convolutions' kernels, statistics and normalisation."""

from __future__ import annotations

from torch import Tensor

from .._shared.native import launch_native
from ..dilated_branches.cuda import (
    launch_branches,
    launch_dimage,
    launch_dw,
    launch_dx,
    launch_dz,
    launch_sums,
    pixel_tiles,
    supports,
)  # fmt: skip
from ..dilated_branches.settings import Settings

__all__ = [
    "launch_branches", "launch_dimage", "launch_dw", "launch_dx", "launch_dz", "launch_normalise",
    "launch_statistics", "launch_sums", "pixel_tiles", "supports",
]  # fmt: skip


def launch_statistics(part: Tensor, mean: Tensor, var: Tensor, z: Tensor) -> None:
    """(tiles, 3, channels) of counts, means and squared deviations -> mean and biased variance of ``z``."""
    launch_native("dilated_branches_train_stats", (), part, mean, var, z)


def launch_normalise(
    z: Tensor, weights: list[Tensor], affine: list[Tensor | None], y: Tensor, settings: Settings
) -> None:
    """Fill ``y`` from ``z`` and every branch's (gamma, beta, mean, variance)."""
    launch_native("dilated_branches_train_normalise", (settings,), z, weights, affine, y)
