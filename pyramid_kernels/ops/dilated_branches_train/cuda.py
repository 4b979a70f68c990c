"""CUDA ``dilated_branches_train``: the convolutions' kernels, statistics and normalisation."""

from __future__ import annotations

from torch import Tensor

from .._shared.native import call
from ..dilated_branches.chain import first_channels
from ..dilated_branches.cuda import (
    address,
    branches,
    launch_branches,
    launch_dimage,
    launch_dw,
    launch_dx,
    launch_dz,
    launch_sums,
    pixel_tiles,
    supports,
)  # fmt: skip

__all__ = [
    "launch_branches", "launch_dimage", "launch_dw", "launch_dx", "launch_dz", "launch_normalise",
    "launch_statistics", "launch_sums", "pixel_tiles", "supports",
]  # fmt: skip


def launch_statistics(part: Tensor, mean: Tensor, var: Tensor, like: Tensor) -> None:
    """(tiles, 3, channels) of counts, means and squared deviations -> mean and biased variance."""
    call(
        "dilated_branches_train_stats", like,
        part.data_ptr(), mean.data_ptr(), var.data_ptr(), part.shape[0], mean.numel(),
    )  # fmt: skip


def launch_normalise(
    z: Tensor, weights: list[Tensor], affine: list[Tensor | None], y: Tensor, eps: list[float], relu: bool
) -> None:
    """Fill ``y`` from ``z`` and every branch's (gamma, beta, mean, variance)."""
    problem = branches(z, weights[0].shape[1], weights, first_channels(weights), [1] * len(weights), affine, eps)
    call("dilated_branches_train_normalise", z, *problem, z.data_ptr(), address(y), relu)
