"""What every backend of ``pyramid_conv`` is told besides the tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Settings(NamedTuple):
    size: Sequence[int]  # of the result
    mode: str
    align_corners: bool
    relu: bool = False
    saved: bool = False  # whether the value before the affine is kept, for scale's gradient
