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
    return over_limit(ours, exact, errors(unfused, exact))


class Errors(NamedTuple):
    """Largest and root-mean-square error, and both over the largest exact value."""

    largest: float = 0.0
    rms: float = 0.0
    relative_largest: float = 0.0
    relative_rms: float = 0.0

    def worse(self, other: Errors) -> Errors:
        """The larger of each."""
        return Errors(*map(max, zip(self, other, strict=True)))


def errors(values: Tensor, exact: Tensor) -> Errors:
    """The errors of ``values``, where ``exact`` is finite."""
    finite = exact.isfinite()
    if not finite.any():
        return Errors()
    error = (values.double() - exact)[finite].abs()
    found = error.max().item(), error.square().mean().sqrt().item()
    scale = exact[finite].abs().max().item()
    return Errors(*found, *(e / scale if scale else 0.0 for e in found))


def over_limit(ours: Tensor, exact: Tensor, chain: Errors) -> float:
    """Error of ``ours`` over the limit that the unfused chain's errors set; see ``error_ratio``."""
    if not torch.equal(ours.isfinite(), exact.isfinite()) or not torch.equal(ours.isnan(), exact.isnan()):
        return float("inf")
    ratios = zip(errors(ours, exact)[:2], limits(ours, exact, chain), strict=True)
    return max(e / limit if limit else float("inf") if e else 0.0 for e, limit in ratios)


def limits(ours: Tensor, exact: Tensor, chain: Errors) -> tuple[float, float]:
    """The limits of the largest and the root-mean-square error: twice the chain's, as they are or as this result's
    largest value scales them, and half a unit in the last place of that value in the dtype of ``ours``."""
    finite = exact[exact.isfinite()]
    scale = finite.abs().max().item() if finite.numel() else 0.0
    step = torch.finfo(ours.dtype).eps / 2 * scale
    largest, rms = max(chain.largest, chain.relative_largest * scale), max(chain.rms, chain.relative_rms * scale)
    return 2 * largest + step, 2 * rms + step


def gpu_ledger() -> list[dict[str, Any]]:
    """Every entry on kernels verified on a GPU, shipped and the user's: op, backend, arch, versions, commit, result."""
    return list(ledger.read()["verified"])
