"""The kernels around one training call, in order: those of ``dilated_branches`` around batch statistics.

``branches`` are the backend's kernels of ``dilated_branches``; ``kernels``, of this op, are ``launch_statistics`` and
``launch_normalise``.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ..dilated_branches.chain import empty_dz, empty_part, gradients
from ..dilated_branches.chain import forward as convolve
from ..dilated_branches.settings import Settings


def with_statistics(
    weights: list[Tensor], affine: list[Tensor | None], mean: Tensor, var: Tensor
) -> list[Tensor | None]:
    """Per branch (gamma, beta, mean, variance): views of the batch's statistics in the two free places."""
    channels = [w.shape[0] for w in weights]
    four: list[Tensor | None] = []
    for b, (m, v) in enumerate(zip(mean.split(channels), var.split(channels), strict=True)):
        four += [affine[4 * b], affine[4 * b + 1], m, v]
    return four


def forward(
    kernels: ModuleType, branches: ModuleType, x: Tensor, weights: list[Tensor], affine: list[Tensor | None],
    image_bias: Tensor | None, y: Tensor, z: Tensor, mean: Tensor, var: Tensor, settings: Settings,
) -> None:  # fmt: skip
    """Fill y, z, mean and variance."""
    part = torch.empty((branches.pixel_tiles(z), 3, z.shape[1]), dtype=torch.float32, device=x.device)
    convolve(branches, x, weights, affine, image_bias, None, z, part, settings)
    kernels.launch_statistics(part, mean, var, z)
    kernels.launch_normalise(z, weights, with_statistics(weights, affine, mean, var), y, settings)


def backward(
    branches: ModuleType, dy: Tensor, x: Tensor, weights: list[Tensor], affine: list[Tensor | None], z: Tensor,
    mean: Tensor, var: Tensor, dx: Tensor, dweights: list[Tensor], dvectors: Tensor, dimage: Tensor,
    needs: list[bool], settings: Settings,
) -> None:  # fmt: skip
    """Fill the gradients that ``needs`` asks for; dz depends on both sums, which are therefore always formed."""
    affine = with_statistics(weights, affine, mean, var)
    dz = empty_dz(x, z.shape[1])
    part = empty_part(dz)
    sums = dvectors if needs[2] else torch.empty((2, z.shape[1]), dtype=torch.float32, device=x.device)
    branches.launch_dz(dy, z, weights, affine, None, None, part, settings)
    branches.launch_sums(part, sums)
    branches.launch_dz(dy, z, weights, affine, sums, dz, None, settings)
    gradients(branches, dz, x, weights, dx, dweights, dimage, needs, settings)
