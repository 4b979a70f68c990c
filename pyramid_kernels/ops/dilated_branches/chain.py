"""The kernels around one call, in order, whichever backend they come from.

``kernels`` is a backend's module: ``launch_branches`` (the convolutions), ``launch_dz``, ``launch_sums``,
``launch_dx``, ``launch_dw``, ``launch_dimage``. They read x, z, dz and weights with contiguous channels, y, dy and dx
by their strides.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from types import ModuleType

import torch
from torch import Tensor

from .._shared.blocks import fit
from .._shared.constants import derived
from .settings import Settings

#: Pixels whose sums the dz kernels keep together; fewer weight tiles than TILES are split along the pixels.
PIXELS, TILES = 64, 256


def forward(
    kernels: ModuleType, x: Tensor, weights: list[Tensor], affine: list[Tensor | None], image_bias: Tensor | None,
    y: Tensor | None, z: Tensor | None, part: Tensor | None, settings: Settings,
) -> None:  # fmt: skip
    """One launch for all branches: writes y, the pre-affine z and the statistics of pixel tiles, each if given."""
    image_bias = None if image_bias is None else image_bias.contiguous()
    weights = [derived(packed, weight) for weight in weights]
    kernels.launch_branches(channels_last(x), weights, affine, image_bias, y, z, part, settings)


def backward(
    kernels: ModuleType, dy: Tensor, x: Tensor, weights: list[Tensor], affine: list[Tensor | None], saved: Tensor,
    dx: Tensor, dweights: list[Tensor], dvectors: Tensor, dimage: Tensor, needs: list[bool], settings: Settings,
) -> None:  # fmt: skip
    """Fill the gradients that ``needs`` (x, weights, affine vectors, image bias) asks for."""
    if not (settings.relu or needs[2] or any(t is not None for t in (*affine[::4], *affine[3::4]))):
        dz = channels_last(dy)
    else:
        dz = empty_dz(x, sum(weight.shape[0] for weight in weights))
        part = empty_part(dz) if needs[2] else None
        kernels.launch_dz(dy, saved, weights, affine, None, dz, part, settings)
        if part is not None:
            kernels.launch_sums(part, dvectors)
    gradients(kernels, dz, x, weights, dx, dweights, dimage, needs, settings)


def gradients(
    kernels: ModuleType, dz: Tensor, x: Tensor, weights: list[Tensor], dx: Tensor, dweights: list[Tensor],
    dimage: Tensor, needs: list[bool], settings: Settings,
) -> None:  # fmt: skip
    """dx, dw and dimage from dz."""
    if needs[0]:
        kernels.launch_dx(dz, [packed(weight) for weight in weights], dx, settings)
    if needs[1]:
        splits = weight_splits(x.shape, [(dw.shape[0], dw.shape[2]) for dw in dweights])
        kernels.launch_dw(dz, channels_last(x), dweights, splits, settings)
    if needs[3]:
        kernels.launch_dimage(dz, dimage, settings.dilations[0])


def weight_splits(size: Sequence[int], shapes: list[tuple[int, int]]) -> int:
    """In how many shares of the pixels of x (n, c, h, w) the gradients of weights, (O, k) each, are summed.

    Counted in 128 x 128 tiles, so that the order of summation is one for every dtype and architecture.
    """
    n, c, h, w = size
    wide_o, wide_c = fit(max(o for o, _ in shapes), 128), fit(c, 128)
    tiles = sum(k * k * -(-o // wide_o) for o, k in shapes) * -(-c // wide_c)
    return max(1, min(-(-TILES // tiles), 16, n * h * w // 256))


def channels_last(x: Tensor) -> Tensor:
    """``x`` with contiguous channels: itself, or the transposed copy that NCHW costs."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous(memory_format=torch.channels_last)


def packed(weight: Tensor) -> Tensor:
    """``weight`` with contiguous input channels and one stride per tap: itself, or a repacked copy."""
    kernel = weight.shape[2]
    in_place = (weight.stride(1) == 1 or weight.shape[1] == 1) and weight.stride(2) == kernel * weight.stride(3)
    if in_place or (kernel == 1 and weight.stride(1) == 1):
        return weight
    return weight.contiguous(memory_format=torch.channels_last)


def first_channels(weights: list[Tensor]) -> list[int]:
    """The first output channel of every branch, and their total."""
    return [0, *accumulate(weight.shape[0] for weight in weights)]


def first_of(dz: Tensor, weights: list[Tensor]) -> list[int]:
    """The first channel of every branch in ``dz``: where it is the gradient of their sum itself, one for all."""
    first = first_channels(weights)
    return first if dz.shape[1] == first[-1] else [0] * len(first)


def empty_dz(x: Tensor, channels: int) -> Tensor:
    shape = (x.shape[0], channels, *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def empty_part(dz: Tensor) -> Tensor:
    """(tiles, 2, channels): the partial sums that ``dz`` kernels write."""
    n, c, h, w = dz.shape
    return torch.empty((-(-n * h * w // PIXELS), 2, c), dtype=torch.float32, device=dz.device)
