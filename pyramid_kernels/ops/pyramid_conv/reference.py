"""Specification of ``pyramid_conv``: every map resized, one concat, one convolution, the affine, the activation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.affine import affine
from .._shared.layout import memory_format
from ..upsample_merge.layout import leader
from ..upsample_merge.reference import resize


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
    """maps (N, C_i, H_i, W_i), weight (O, sum C_i, k, k) -> (N, O, *size)."""
    x = torch.cat([resize(m, size, mode, align_corners) for m in maps], 1)
    bias = None if bias is None else bias.to(x.dtype)
    y = affine(F.conv2d(x, weight, bias, padding=weight.shape[2] // 2), scale, shift, activation)
    return y.contiguous(memory_format=memory_format(leader(maps, size)))
