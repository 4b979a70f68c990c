"""``channel_gate`` with x taken once: ``x * (1 + gate)`` is one pass over the map, ``x * gate + x`` two."""

from __future__ import annotations

from torch import Tensor

from ...backends import Problem
from .._shared.layout import as_map
from .reference import gate_of


def supports(problem: Problem) -> str | None:
    return None


def pays(problem: Problem, sizes: tuple[int, ...]) -> str | None:
    """Measured on one and two cores, in both layouts, whatever the size."""
    _, residual = problem.options
    return None if residual else "without a residual the unfused chain is one product as well"


def channel_gate(x: Tensor, *layers: Tensor | None, activation: str | None, residual: bool) -> Tensor:
    gate = gate_of(x, *layers, activation=activation)
    return as_map(x * (gate + 1 if residual else gate), x)
