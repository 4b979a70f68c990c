"""What every backend of ``channel_gate`` is told besides the tensors."""

from __future__ import annotations

from typing import NamedTuple


class Settings(NamedTuple):
    relu: bool
    residual: bool
    eps: float
