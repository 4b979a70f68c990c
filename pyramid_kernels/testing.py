"""For tests of and around the package: launch counter, error oracle, GPU ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .ops._shared.launch import counters
from .verification import ledger
from .verification.errors import error_ratio as error_ratio
from .verification.errors import module_error_ratios as module_error_ratios


@contextmanager
def count_launches() -> Iterator[Counter[tuple[str, str]]]:
    """Count the kernels launched inside the block; keys are (kernel name, dtype name), both strings."""
    counter: Counter[tuple[str, str]] = Counter()
    counters.append(counter)
    try:
        yield counter
    finally:
        counters[:] = [other for other in counters if other is not counter]  # list.remove would compare contents


def gpu_ledger() -> list[dict[str, Any]]:
    """Every entry on kernels verified on a GPU, shipped and the user's: op, backend, arch, versions, commit, result."""
    return list(ledger.read()["verified"])
