"""A gate over channels as modules hold it: which layers it is made of, and how it runs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import functional
from ..backends import Backend, Calls
from . import structure
from .base import Unit, problems_of
from .norm import as_norm, uses_batch


class Gate(NamedTuple):
    """``x * sigmoid(second(act(norm(first(mean(x))))))``, plus x where ``residual``; ``second`` may be None."""

    first: nn.Conv2d
    norm: nn.Module
    relu: bool = False
    second: nn.Conv2d | None = None
    residual: bool = False

    def plain(self, x: Tensor) -> Tensor:
        """In PyTorch, every layer called."""
        g = self.norm(self.first(x.mean((2, 3), keepdim=True)))
        g = torch.relu(g) if self.relu else g
        y = x * (g if self.second is None else self.second(g)).sigmoid()
        return y + x if self.residual else y

    def __call__(self, x: Tensor, backend: Backend) -> Tensor:
        """By ``channel_gate``; in PyTorch where the norm takes statistics of the batch, one value of every image."""
        if uses_batch(self.norm):
            return self.plain(x)
        second = (None, None) if self.second is None else (self.second.weight, self.second.bias)
        return functional.channel_gate(
            x, self.first.weight, self.first.bias, *second, norm1=as_norm(self.norm),
            hidden_activation="relu" if self.relu else None, residual=self.residual, backend=backend,
        )  # fmt: skip

    def problems(self, x: Tensor) -> Calls:
        """What ``channel_gate`` is asked about a map of the size of ``x``."""
        if uses_batch(self.norm):
            return []
        gated = x.new_empty((len(x), self.first.in_channels, *x.shape[2:]))
        return problems_of(functional.channel_gate, gated, self.first.weight, residual=self.residual)

    @property
    def units(self) -> list[Unit]:
        second = [] if self.second is None else [Unit(self.second, nn.Identity())]
        return [Unit(self.first, self.norm, biased=True), *second]

    def why_not(self, *paths: str) -> str | None:
        """Why the convolutions, at ``paths``, are not the 1x1 ones of a gate over one map's channels."""
        channels = self.first.in_channels
        for path, unit in zip(paths, self.units, strict=True):
            conv = unit.conv
            reason = structure.why_not_conv(path, conv)
            if reason is None and conv.in_channels != channels:
                reason = f"{path} takes {conv.in_channels} channels, and {channels} come in"
            if reason:
                return reason
            channels = conv.out_channels
        if channels != self.first.in_channels:
            return f"{paths[-1]} gives {channels} gates, and the map has {self.first.in_channels} channels"
        return structure.why_not_units(self.units)
