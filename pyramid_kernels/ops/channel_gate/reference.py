"""Specification of ``channel_gate``: one mean per channel, one or two 1x1 convolutions of it, a sigmoid, a product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.affine import normalise
from .._shared.layout import as_map
from .settings import Settings


def channel_gate(x: Tensor, layers: Sequence[Tensor | None], settings: Settings) -> Tensor:
    """x (N, C, H, W) times its gate, plus x where there is a residual."""
    y = x * gate_of(x, layers, settings)
    return as_map(y + x if settings.residual else y, x)


def gate_of(x: Tensor, layers: Sequence[Tensor | None], settings: Settings) -> Tensor:
    """The gate (N, C, 1, 1) of every channel; layers: weight1, bias1, scale1, shift1, mean1, var1, weight2, bias2."""
    weight1, bias1, *affine, weight2, bias2 = layers
    assert weight1 is not None
    g = _project(x.mean((2, 3), keepdim=True), weight1, bias1)
    g = normalise(g, tuple(affine), settings.eps)
    g = {"none": lambda z: z, "relu": F.relu, "silu": F.silu}[settings.activation](g)
    g = g if weight2 is None else _project(g, weight2, bias2)
    return hardsigmoid(g) if settings.hard else g.sigmoid()


def hardsigmoid(z: Tensor) -> Tensor:
    """PyTorch's, whose own gradient multiplies by a sixth of float32 precision, in float64 as well."""
    return torch.where((z > -3) & (z < 3), (z + 3) / 6, F.hardsigmoid(z.detach()))


def _project(z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, C, 1, 1) -> (N, O, 1, 1)."""
    return F.conv2d(z, weight.view(*weight.shape[:2], 1, 1), None if bias is None else bias.to(z.dtype))
