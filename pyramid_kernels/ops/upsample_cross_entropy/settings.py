"""How a call reduces and smooths, as every backend is told."""

from __future__ import annotations

from typing import NamedTuple


class Settings(NamedTuple):
    """Everything but the tensors."""

    align_corners: bool
    ignore_index: int
    label_smoothing: float
    reduction: str
