"""Sizes of the blocks of matrix products, for whichever backend."""

from __future__ import annotations


def fit(length: int, most: int) -> int:
    """A power of two from 16, the least that tensor cores take, to ``most``, that covers ``length`` if it can."""
    return max(16, min(most, 1 << (length - 1).bit_length()))
