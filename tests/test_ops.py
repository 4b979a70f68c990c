"""The four tiers, for every op, case, backend, dtype and layout. An op is tested by having a ``spec.py``.

On a GPU every combination runs. In Triton's interpreter a launch takes seconds, so each case takes every dtype once and
both layouts, and the other combinations are left to ``make test-all``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pyramid_kernels import oracle
from pyramid_kernels.ops import all_ops
from pyramid_kernels.ops._shared.spec import Case, materialise
from tests.kernels import DEVICE, DTYPES, cases, short, specified_ops

F32, F16, BF16, F64 = DTYPES
PYTHON = ("reference", "composed")


def test_every_op_has_a_spec() -> None:
    assert specified_ops() == list(all_ops())


def backends(op: str) -> tuple[str, ...]:
    return ("composed", "triton") if all_ops()[op].composed else ("triton",)


def combinations(exact: bool = False, sliced: bool = False) -> list[Any]:
    """(op, case, backend, dtype, channels_last) that exist here, the costly ones marked slow."""
    return list(_combinations(exact, sliced))


def _combinations(exact: bool, sliced: bool) -> Iterator[Any]:
    for op in specified_ops():
        for place, case in enumerate(cases(op)):
            if exact and not case.exact:
                continue
            for backend in backends(op):
                for dtype in DTYPES:
                    for channels_last in (False, True):
                        if exact and backend == "composed" and dtype in (F16, BF16):
                            continue  # rounds between its steps
                        if oracle.cannot_check(op, case, backend, dtype, channels_last, DEVICE):
                            continue
                        core = _is_core(place, dtype, channels_last, exact or sliced)
                        slow = backend == "triton" and DEVICE == "cpu" and not core
                        layout = "channels_last" if channels_last else "contiguous"
                        yield pytest.param(
                            op, case, backend, dtype, channels_last,
                            id="-".join((op, case.id, backend, short(dtype), layout)),
                            marks=[pytest.mark.slow] if slow else [],
                        )  # fmt: skip


def _is_core(place: int, dtype: torch.dtype, channels_last: bool, once: bool) -> bool:
    """The interpreter's share of a case: fp32 in one layout, the other dtypes in the other; ``once``: one dtype."""
    first = channels_last == bool(place % 2)
    if once:
        return not first and dtype == (F16, F32)[place % 3 == 0]
    return first == (dtype == F32)


@pytest.mark.parametrize("op,case,backend,dtype,channels_last", combinations())
def test_oracle(op: str, case: Case, backend: str, dtype: torch.dtype, channels_last: bool) -> None:
    report = oracle.check(op, case, backend, dtype, channels_last, device=DEVICE)
    assert_passes(report)
    assert_formats(op, case, dtype, channels_last, report)
    if backend not in PYTHON:
        assert_launches(op, case, channels_last, report)


def assert_passes(report: oracle.Report) -> None:
    failures = report.failures()
    assert not failures, "\n".join(failures)


def assert_formats(op: str, case: Case, dtype: torch.dtype, channels_last: bool, report: oracle.Report) -> None:
    """Dtypes and, up to dimensions of size one, strides are those of the reference."""
    tensors = materialise(case, dtype, DEVICE, channels_last)
    for ours, theirs in zip(report.run.outputs, oracle.call(op, tensors, "reference"), strict=True):
        assert ours.dtype == theirs.dtype
        strides = [[s for s, n in zip(y.stride(), y.shape, strict=True) if n > 1] for y in (ours, theirs)]
        assert strides[0] == strides[1]


def assert_launches(op: str, case: Case, channels_last: bool, report: oracle.Report) -> None:
    """Exactly the kernels and copies that the spec lists, and nothing else from ATen."""
    spec = oracle.spec(op)
    forward, backward = spec.launches(case, channels_last)
    assert dict(report.run.forward) == forward
    assert dict(report.run.backward) == backward
    allowed = spec.calls(case, channels_last) if hasattr(spec, "calls") else ({}, {})
    assert tuple(dict(calls) for calls in report.run.calls) == tuple(allowed)


@pytest.mark.parametrize("op,case,backend,dtype,channels_last", combinations(exact=True))
def test_exact(op: str, case: Case, backend: str, dtype: torch.dtype, channels_last: bool) -> None:
    """Small integers: fp32 accumulation is exact, so results equal the reference rounded once."""
    assert_passes(oracle.check(op, case, backend, dtype, channels_last, exact=True, device=DEVICE))


@pytest.mark.parametrize("op,case,backend,dtype,channels_last", combinations(sliced=True))
def test_hygiene(op: str, case: Case, backend: str, dtype: torch.dtype, channels_last: bool) -> None:
    """Misaligned slices of NaN-filled buffers: same limits, inputs unchanged, a second run equal bit for bit."""
    assert_passes(oracle.check(op, case, backend, dtype, channels_last, sliced=True, device=DEVICE))
