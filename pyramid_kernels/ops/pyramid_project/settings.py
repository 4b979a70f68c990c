"""What every backend of ``pyramid_project`` is told besides the tensors."""

from __future__ import annotations

from typing import NamedTuple

from ...registration import Sizes


class Settings(NamedTuple):
    cells: Sizes  # of every level
    eps: list[float]  # of every level's norm
    relu: bool = False
    saved: bool = False  # whether the products are kept, for a gain's gradient
