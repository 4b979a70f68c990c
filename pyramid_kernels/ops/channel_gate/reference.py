"""Specification of ``channel_gate``: one mean per channel, one or two 1x1 convolutions of it, a sigmoid, a product."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .._shared.affine import affine
from .._shared.layout import as_map


def channel_gate(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    scale1: Tensor | None,
    shift1: Tensor | None,
    weight2: Tensor | None,
    bias2: Tensor | None,
    *,
    activation: str | None,
    residual: bool,
) -> Tensor:
    """x (N, C, H, W) times its gate (N, C, 1, 1), plus x where ``residual``."""
    mean = x.mean((2, 3), keepdim=True)
    g = affine(_project(mean, weight1, bias1), scale1, shift1, activation)
    if weight2 is not None:
        g = _project(g, weight2, bias2)
    y = x * g.sigmoid()
    return as_map(y + x if residual else y, x)


def _project(z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, C, 1, 1) -> (N, O, 1, 1)."""
    return F.conv2d(z, weight.view(*weight.shape[:2], 1, 1), None if bias is None else bias.to(z.dtype))
