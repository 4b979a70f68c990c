"""For tests of and around the package: launch counter, error oracle, GPU ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

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
    return over_limit(ours, exact, relative_errors(unfused, exact))


class Errors(NamedTuple):
    """Largest and root-mean-square error, both over the largest exact value."""

    largest: float = 0.0
    rms: float = 0.0


def relative_errors(values: Tensor, exact: Tensor) -> Errors:
    """The errors of ``values``, where ``exact`` is finite."""
    finite = exact.isfinite()
    if not finite.any():
        return Errors()
    error = (values.double() - exact)[finite].abs()
    scale = exact[finite].abs().max().item()
    found = error.max().item(), error.square().mean().sqrt().item()
    return Errors(*(e / scale if scale else float("inf") if e else 0.0 for e in found))


def over_limit(ours: Tensor, exact: Tensor, chain: Errors) -> float:
    """Error of ``ours`` over the limit that the unfused chain's errors set; see ``error_ratio``."""
    if not torch.equal(ours.isfinite(), exact.isfinite()) or not torch.equal(ours.isnan(), exact.isnan()):
        return float("inf")
    rounding = torch.finfo(ours.dtype).eps / 2
    return max(e / (2 * c + rounding) for e, c in zip(relative_errors(ours, exact), chain, strict=True))


def gpu_ledger() -> list[dict[str, Any]]:
    """Every entry on kernels verified on a GPU, shipped and the user's: op, backend, arch, versions, commit, result."""
    return list(ledger.read()["verified"])
