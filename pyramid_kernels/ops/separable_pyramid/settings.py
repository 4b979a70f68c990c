"""What every backend of ``separable_pyramid`` is told besides the tensors."""

from __future__ import annotations

from typing import NamedTuple


class Settings(NamedTuple):
    bins: list[int]  # rows and columns of every level, one after the other
    windows: str
    include_input: bool = True
