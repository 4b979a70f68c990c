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
from .settings import Settings


def pyramid_conv(
    maps: Sequence[Tensor], weight: Tensor, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None,
    settings: Settings,
) -> Tensor:  # fmt: skip
    """maps (N, C_i, H_i, W_i), weight (O, sum C_i, k, k) -> (N, O, *size)."""
    size, mode, align_corners, relu, _ = settings
    x = torch.cat([resize(m, size, mode, align_corners) for m in maps], 1)
    bias = None if bias is None else bias.to(x.dtype)
    y = affine(F.conv2d(x, weight, bias, padding=weight.shape[2] // 2), scale, shift, relu)
    return y.contiguous(memory_format=memory_format(leader(maps, size)))
