"""For tests of and around the package: launch counter, error oracle, GPU ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .ops._shared.launch import counters
from .ops._shared.shortcuts import calls
from .verification import ledger
from .verification.errors import error_ratio as error_ratio
from .verification.errors import module_error_ratios as module_error_ratios


@contextmanager
def count_launches() -> Iterator[Counter[tuple[str, str]]]:
    """Count the kernels launched inside the block; keys are (kernel name, dtype name), both strings."""
    counter: Counter[tuple[str, str]] = Counter()
    with _listed(counters, counter):
        yield counter


@contextmanager
def count_ops() -> Iterator[Counter[str]]:
    """Count the public ops called inside the block, by name, whichever backend runs them.

    Ops of fused modules count, and those in graphs that ``torch.compile`` has rewritten where the inner compiler is
    "eager"; another inner compiler takes them apart when it compiles, and then they count once.
    """
    counter: Counter[str] = Counter()
    with _listed(calls, lambda name, args, kwargs: counter.update([name])):
        yield counter


@contextmanager
def _listed(switched_on: list[Any], one: Any) -> Iterator[None]:
    switched_on.append(one)
    try:
        yield
    finally:
        switched_on[:] = [other for other in switched_on if other is not one]  # list.remove would compare contents


def gpu_ledger() -> list[dict[str, Any]]:
    """Every entry on kernels verified on a GPU, shipped and the user's: op, backend, arch, versions, commit, result."""
    return list(ledger.read()["verified"])
