"""Triton ``aspp``: the composition, with every op in it on Triton."""

from __future__ import annotations

from ..dilated_branches.triton import supports

__all__ = ["supports"]
