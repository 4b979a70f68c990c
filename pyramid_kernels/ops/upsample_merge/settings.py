"""What every backend of ``upsample_merge`` is told besides the tensors."""

from __future__ import annotations

from typing import NamedTuple


class Settings(NamedTuple):
    mode: str
    align_corners: bool
    merge: str
    relu: bool = False  # of the output; a backward sees it by its y
