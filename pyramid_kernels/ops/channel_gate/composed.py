"""``channel_gate`` in one pass: ``addcmul`` reads and writes one map, ``x * gate + x`` three and two.

Not ``x * (1 + gate)``: an infinite x with a gate of zero is NaN in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.layout import as_map
from .reference import gate_of
from .settings import Settings


def pays(problem: Problem, sizes: tuple[int, ...]) -> str | None:
    """Measured on one and two cores, in both layouts, whatever the size."""
    _, residual = problem.options
    return None if residual else "without a residual the unfused chain is one product as well"


def channel_gate(x: Tensor, layers: Sequence[Tensor | None], settings: Settings) -> Tensor:
    gate = gate_of(x, layers, settings)
    return as_map(torch.addcmul(x, x, gate) if settings.residual else x * gate, x)
