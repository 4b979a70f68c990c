"""Pooling windows along one axis: one formula for the adaptive, fixed and ceil windowings.

Window i covers [max(0, (i * step + lead) // den), min(size, ((i + 1) * step + tail) // den)).
"""

from __future__ import annotations

from typing import NamedTuple

WINDOWS = ("adaptive", "fixed", "ceil")


class Axis(NamedTuple):
    """The windows of one level along one axis of length ``size``."""

    size: int
    count: int  # type: ignore[assignment]  # hides tuple.count
    step: int
    lead: int
    tail: int
    den: int

    def start(self, i: int) -> int:
        return max(0, (i * self.step + self.lead) // self.den)

    def end(self, i: int) -> int:
        return min(self.size, ((i + 1) * self.step + self.tail) // self.den)

    def length(self, i: int) -> int:
        """What an average divides by: the window's size, counting the padding that "ceil" adds."""
        return self.step if self.den == 1 else self.end(i) - self.start(i)


def axis_windows(bins: int, size: int, windows: str) -> Axis:
    """The windows of ``bins`` along an axis of ``size``; ValueError where the windowing does not exist."""
    if windows == "adaptive":
        return Axis(size, bins, size, 0, bins - 1, bins)
    if windows == "fixed":
        step = size // bins
        if step == 0:
            raise ValueError(
                f"bins: windows='fixed' gives a window of size 0 for bin {bins} on a map of size {size}; "
                f"use bins of at most {size} or windows='adaptive', or a larger map for a model trained with these"
            )
        return Axis(size, size // step, step, 0, 0, 1)
    step = -(-size // bins)
    pad = (step * bins - size + 1) // 2
    if pad > step // 2:
        raise ValueError(
            f"bins: windows='ceil' needs padding {pad} for a window of {step} (bin {bins} on a map of size {size}), "
            f"more than half the window, which PyTorch's pooling refuses; use windows='adaptive', or another size "
            "of the map for a model trained with these"
        )
    return Axis(size, (size + 2 * pad - step) // step + 1, step, -pad, -pad, 1)


def paired(bins: list[int]) -> list[tuple[int, int]]:
    """(rows, cols) of every level, from the flat list that an operator takes."""
    return list(zip(bins[::2], bins[1::2], strict=True))


def grids(bins: list[tuple[int, int]], size: tuple[int, int], windows: str) -> list[tuple[int, int]]:
    """(rows, cols) of every level."""
    return [(axis_windows(r, size[0], windows).count, axis_windows(c, size[1], windows).count) for r, c in bins]
