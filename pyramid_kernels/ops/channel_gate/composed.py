"""``channel_gate`` in one pass: ``addcmul`` reads and writes one map, ``x * gate + x`` three and two.

Not ``x * (1 + gate)``: an infinite x with a gate of zero is NaN in PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.layout import as_map
from .reference import gate_of


def pays(problem: Problem, sizes: tuple[int, ...]) -> str | None:
    """Measured on one and two cores, in both layouts, whatever the size."""
    _, residual = problem.options
    return None if residual else "without a residual the unfused chain is one product as well"


def channel_gate(x: Tensor, *layers: Tensor | None, activation: str | None, residual: bool, eps: float) -> Tensor:
    gate = gate_of(x, *layers, activation=activation, eps=eps)
    return as_map(torch.addcmul(x, x, gate) if residual else x * gate, x)
