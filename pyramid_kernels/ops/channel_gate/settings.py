"""What every backend of ``channel_gate`` is told besides the tensors."""

from __future__ import annotations

from typing import NamedTuple


class Settings(NamedTuple):
    activation: str  # of the hidden values: "none", "relu" or "silu"
    hard: bool  # whether the gate is a hard sigmoid
    residual: bool
    eps: float
