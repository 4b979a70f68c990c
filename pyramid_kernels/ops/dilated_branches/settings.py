"""What every backend of ``dilated_branches`` and ``dilated_branches_train`` is told besides the tensors."""

from __future__ import annotations

from typing import NamedTuple


class Settings(NamedTuple):
    """Without the last two fields: of a training call."""

    dilations: list[int]
    eps: list[float]
    relu: bool
    merged: bool = False  # whether the branches are summed, not concatenated
    saved: bool = True  # whether what comes before the norms is kept for backward
