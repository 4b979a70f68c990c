"""``pyramid_conv`` in PyTorch, mixed at low resolution: resampling is one small matrix per axis.

A row of taps of a level is one 1x1 convolution at its own resolution; columns, then rows, are resampled by matrices
that hold the interpolation, the shift of the tap, and zeros where the tap lies outside the map. One row of taps at a
time, so that the intermediate results stay smaller than the concat. Matrix products run in channels_last, where the
channels of a pixel are a row of the operand.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...backends import Problem
from .._shared.affine import affine
from .._shared.layout import as_map
from ..upsample_merge.layout import leader
from ..upsample_merge.reference import resize
from .layout import columns, split


def supports(problem: Problem) -> str | None:
    return None


def pays(problem: Problem, sizes: tuple[int, ...]) -> str | None:
    """``sizes``: N, O, k, H, W, then the channels, rows and columns of every map."""
    if problem.dtype != torch.float32:
        return "measured for float32 only"
    return "not measured yet"


def pyramid_conv(
    maps: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    size: tuple[int, int],
    *,
    mode: str,
    align_corners: bool,
    scale: Tensor | None,
    shift: Tensor | None,
    activation: str | None,
) -> Tensor:
    whole, mixed = split(maps, weight, size)
    parts = columns(maps, weight)
    k = weight.shape[2]
    # A wider bias is added in its own dtype, and so is its gradient's sum.
    inner, outer = (bias, None) if bias is None or bias.dtype == weight.dtype else (None, bias)
    if whole:
        x = torch.cat([resize(maps[i], size, mode, align_corners) for i in whole], 1)
        y = F.conv2d(x, torch.cat([parts[i] for i in whole], 1), inner, padding=k // 2)
        del x
    else:
        y = maps[0].new_zeros((len(maps[0]), len(weight), *size))
        outer = bias
    y = y.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)  # [N, H, W, O]
    n, h, w, o = y.shape
    y = y.reshape(n, h, w * o)
    # [taps, full, source] of every level's rows and columns
    axes = [[_resampling(maps[i], axis, size, mode, align_corners, k) for axis in (0, 1)] for i in mixed]
    for tap in range(k if mixed else 0):
        levels = [_row_of_taps(maps[i], parts[i][:, :, tap], right) for i, (_, right) in zip(mixed, axes, strict=True)]
        down = torch.cat([rows[tap] for rows, _ in axes], 1)  # [H, sum of the levels' rows]
        y = torch.baddbmm(y, down.expand(n, *down.shape), torch.cat(levels, 1))
    y = affine(y.view(n, h, w, o).permute(0, 3, 1, 2), None, outer, None)
    return as_map(affine(y, scale, shift, activation), leader(maps, size))


def _row_of_taps(x: Tensor, weight: Tensor, right: Tensor) -> Tensor:
    """One row of taps (O, C, k) of a level (N, C, h, w), its columns resampled by ``right`` [k, W, w]: [N, h, W*O]."""
    o, c, k = weight.shape
    x = x.contiguous(memory_format=torch.channels_last)
    products = F.conv2d(x, weight.permute(2, 0, 1).reshape(k * o, c, 1, 1))
    n, _, h, w = products.shape
    products = products.permute(0, 2, 3, 1).reshape(n * h, w * k, o)
    return torch.matmul(right.permute(1, 2, 0).flatten(1), products).view(n, h, -1)


def _resampling(x: Tensor, axis: int, size: Sequence[int], mode: str, align_corners: bool, k: int) -> Tensor:
    """What every tap of every output index takes from the indices of ``x`` along ``axis``: [k, full, source]."""
    one_hot = torch.eye(x.shape[2 + axis], dtype=x.dtype, device=x.device)[None]
    linear = {"mode": "linear", "align_corners": align_corners} if mode == "bilinear" else {"mode": mode}
    full = size[axis]
    shares = one_hot if x.shape[2 + axis] == full else F.interpolate(one_hot, full, **linear)
    padded = F.pad(shares[0], (k // 2, k // 2))
    return torch.stack([padded[:, tap : tap + full].T for tap in range(k)])
