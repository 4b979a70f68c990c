"""Specification of ``dilated_branches``: one convolution, normalisation and activation per branch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.affine import Affine, normalise
from .._shared.layout import as_map
from .settings import Settings


def dilated_branches(
    x: Tensor, weights: Sequence[Tensor], affine: Sequence[Affine], image_bias: Tensor | None, settings: Settings
) -> Tensor:
    maps = (convolve(x, w, d, image_bias) for w, d in zip(weights, settings.dilations, strict=True))
    return merged(maps, x, affine, settings)


def merged(maps: Iterable[Tensor], x: Tensor, affine: Sequence[Affine], settings: Settings) -> Tensor:
    """Every convolved map normalised and activated before the next one is made; their concat or sum."""
    branches = []
    for z, parameters, eps in zip(maps, affine, settings.eps, strict=True):
        y = normalise(z, parameters, eps)
        branches.append(torch.relu(y) if settings.relu else y)
    return as_map(torch.stack(branches).sum(0) if settings.merged else torch.cat(branches, 1), x)


def convolve(x: Tensor, weight: Tensor, dilation: int, image_bias: Tensor | None) -> Tensor:
    """The same-padded convolution, plus what constant image channels add: (N, O, taps) -> (N, O, H, W)."""
    padding = tuple(size // 2 * dilation for size in weight.shape[2:])
    z = F.conv2d(x, weight, padding=padding, dilation=dilation)
    return z if image_bias is None else z + image_term(image_bias, weight.shape[2:], dilation, x.shape[2:]).to(z.dtype)


def image_term(image_bias: Tensor, kernel: Sequence[int], dilation: int, size: Sequence[int]) -> Tensor:
    """(N, O, taps) -> (N, O, H, W): what every tap adds where it lies inside the map.

    By choice, not by a product with zeros, which would spread NaN and infinity to where the tap lies outside.
    """
    rows, columns = (_inside(k, dilation, s, image_bias) for k, s in zip(kernel, size, strict=True))
    taps = image_bias.unflatten(2, list(kernel))
    along = torch.where(columns, taps[..., None], 0).sum(3)  # [N, O, rows of taps, W]
    return torch.where(rows[:, :, None], along[:, :, :, None], 0).sum(2)


def _inside(taps: int, dilation: int, size: int, like: Tensor) -> Tensor:
    """[taps, size]: whether the tap of each position lies inside the axis."""
    tap, place = torch.arange(taps, device=like.device), torch.arange(size, device=like.device)
    read = place + ((tap - taps // 2) * dilation)[:, None]
    return (read >= 0) & (read < size)
