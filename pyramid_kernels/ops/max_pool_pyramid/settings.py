"""What every backend of ``max_pool_pyramid`` is told besides the tensors."""

from __future__ import annotations

from typing import NamedTuple


class Settings(NamedTuple):
    kernel_sizes: list[int]
    cascade: bool
    order: str
