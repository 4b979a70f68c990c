"""What every backend of ``pyramid_project`` is told besides the tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Settings(NamedTuple):
    cells: list[int]  # of every level
    eps: Sequence[float] = ()  # of every level's norm
    relu: bool = False
    saved: bool = False  # whether the products are kept, for a gain's gradient
