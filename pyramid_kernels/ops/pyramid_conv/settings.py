"""What every backend of ``pyramid_conv`` is told besides the tensors."""

from __future__ import annotations

from typing import NamedTuple

from ...registration import Sizes


class Settings(NamedTuple):
    size: Sizes  # of the result
    mode: str
    align_corners: bool
    relu: bool = False
    saved: bool = False  # whether the value before the affine is kept, for scale's gradient
