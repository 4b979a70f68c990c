"""What every backend of ``upsample_argmax`` is told besides the tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ...registration import Sizes


class Settings(NamedTuple):
    size: Sizes
    align_corners: bool
    dtype: torch.dtype  # of the labels
