"""Every Triton launch goes through ``launch``, and every launch can be counted."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from typing import Any

import torch

#: Counters that ``pyramid_kernels.testing.count_launches`` has switched on; keys are (kernel name, dtype name).
counters: list[Counter[tuple[str, str]]] = []

#: (backend, kernel, dtype) of everything launched while a counter was on.
launched: set[tuple[str, str, str]] = set()


def record(backend: str, kernel: str, dtype: str) -> None:
    """Add one launch to every counter."""
    launched.add((backend, kernel, dtype))
    for counter in counters:
        counter[kernel, dtype] += 1


def launch(kernel: Any, grid: tuple[int, ...], like: torch.Tensor, *args: Any, **meta: Any) -> None:
    """Launch a Triton kernel on the device of ``like``, whose dtype names the instantiation; empty grids do nothing."""
    if 0 in grid:
        return
    if counters:
        record("triton", kernel.__name__, str(like.dtype).removeprefix("torch."))
    with torch.cuda.device(like.device) if like.is_cuda else nullcontext():
        start(kernel, grid, args, meta)


def start(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], meta: dict[str, Any]) -> None:
    """Hand one launch to Triton. The oracle and the compile gate put their own function here."""
    kernel[grid](*args, **meta)
