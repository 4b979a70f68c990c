"""What every backend of ``upsample_cross_entropy`` is told besides the tensors."""

from __future__ import annotations

from typing import NamedTuple


class Settings(NamedTuple):
    align_corners: bool
    ignore_index: int
    label_smoothing: float
    reduction: str
