"""For tests of and around the package: launch counter, error oracle, GPU ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from . import ledger
from .ops._shared.launch import counters


@contextmanager
def count_launches() -> Iterator[Counter[tuple[str, str]]]:
    """Count the kernels launched inside the block; keys are (kernel name, dtype name), both strings."""
    counter: Counter[tuple[str, str]] = Counter()
    counters.append(counter)
    try:
        yield counter
    finally:
        counters[:] = [other for other in counters if other is not counter]  # list.remove would compare contents


def error_ratio(ours: Tensor, unfused: Tensor, exact: Tensor) -> float:
    """Error of ``ours`` over its limit; at most 1 passes, and NaN or inf out of place gives inf.

    All three have one shape; ``exact`` is the float64 reference and ``unfused`` the same chain in the tested dtype (or
    rounded to it after every op). The limit, for the largest and for the root-mean-square error each, is twice the
    unfused chain's error plus one rounding of the largest exact value in the dtype of ``ours``.
    """
    if not ours.shape == unfused.shape == exact.shape:
        raise ValueError(
            f"ours, unfused and exact must have one shape, got {tuple(ours.shape)}, {tuple(unfused.shape)}, "
            f"{tuple(exact.shape)}"
        )
    if exact.numel() == 0:
        return 0.0
    finite = exact.isfinite()
    if not torch.equal(ours.isfinite(), finite):
        return float("inf")
    if not torch.equal(ours.isnan(), exact.isnan()):
        return float("inf")
    wrong, allowed = ((t.double() - exact)[finite].abs() for t in (ours, unfused))
    if wrong.numel() == 0:
        return 0.0
    unit = rounding_of(exact, ours.dtype)
    worst = 0.0
    for measure in (lambda e: e.max(), lambda e: e.square().mean().sqrt()):
        limit = 2 * measure(allowed) + unit
        error = measure(wrong)
        worst = max(worst, 0.0 if error == 0 else (error / limit).item() if limit > 0 else float("inf"))
    return worst


def rounding_of(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """One rounding to ``dtype`` of the largest finite value of ``exact``."""
    return torch.finfo(dtype).eps / 2 * exact[exact.isfinite()].abs().max()


def gpu_ledger() -> list[dict[str, Any]]:
    """Every entry on kernels verified on a GPU, shipped and the user's: op, backend, arch, versions, commit, result."""
    return list(ledger.read()["verified"])
