"""Numbers and memory, for every op, case, backend, dtype and layout. An op is tested by having a ``spec.py``.

On a GPU every combination runs. On a CPU, where a launch takes up to seconds, ``make test`` takes a share of them,
drawn so that an op's cases together see every dtype and layout, and every Triton kernel runs; ``make test-all`` takes
the rest.
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import Any

import pytest
import torch

from pyramid_kernels.ops import all_ops
from pyramid_kernels.ops._shared.spec import Case, arguments_of, materialise
from pyramid_kernels.verification import oracle
from tests.kernels import DEVICE, DTYPES, backends, cases, kernel_dtypes, short, specified_ops

F32, F16, BF16, F64 = DTYPES
PYTHON = ("reference", "composed")


def test_every_op_has_a_spec() -> None:
    assert specified_ops() == list(all_ops())


def combinations(exact: bool = False, sliced: bool = False) -> list[Any]:
    """(op, case, backend, dtype, channels_last) that exist here, the costly ones marked slow."""
    return list(_combinations(exact, sliced))


def _combinations(exact: bool, sliced: bool) -> Iterator[Any]:
    for op in specified_ops():
        for place, case in enumerate(cases(op)):
            if exact and not case.exact:
                continue
            for backend in (*(["reference"] if sliced else []), *backends(op)):
                for dtype in DTYPES:
                    for channels_last in (False, True):
                        if dtype in (F16, BF16) and (backend == "reference" or exact and backend == "composed"):
                            continue  # rounds between its steps
                        if oracle.cannot_check(op, case, backend, dtype, channels_last, DEVICE):
                            continue
                        slow = DEVICE == "cpu" and not _is_core(op, place, backend, dtype, channels_last, exact, sliced)
                        layout = "channels_last" if channels_last else "contiguous"
                        yield pytest.param(
                            op, case, backend, dtype, channels_last,
                            id="-".join((op, case.id, backend, short(dtype), layout)),
                            marks=[pytest.mark.slow] if slow else [],
                        )  # fmt: skip


def by_size(op: str) -> list[Case]:
    """The op's cases, those of the fewest elements first."""
    return sorted(cases(op), key=lambda c: sum(prod(a.shape) for a in arguments_of(c)))


@functools.cache
def covering(op: str) -> frozenset[tuple[Case, torch.dtype, bool]]:
    """Small cases that together launch every Triton kernel of the op in every dtype."""
    seen: set[tuple[str, torch.dtype]] = set()
    chosen = set()
    for channels_last in (False, True):
        for place, case in enumerate(by_size(op)):
            for dtype in kernel_dtypes(op):
                last = channels_last ^ bool((place + DTYPES.index(dtype)) % 2)
                launched = {(name, dtype) for names in oracle.spec(op).launches(case, last, "triton") for name in names}
                if not launched <= seen and not oracle.cannot_check(op, case, "triton", dtype, last, DEVICE):
                    seen |= launched
                    chosen.add((case, dtype, last))
    return frozenset(chosen)


def _is_core(
    op: str, place: int, backend: str, dtype: torch.dtype, channels_last: bool, exact: bool, sliced: bool
) -> bool:
    """A CPU's share of a case.

    The simulator takes half of all, where data is exact one dtype per layout, and one of all slices, whose calls are
    repeated. PyTorch's own ops take float32 and half of the rest, of slices one layout or dtype. The interpreter takes
    what covers its kernels, of exact data every fourth case in one dtype and layout, of slices the smallest in one.
    """
    place_of_dtype, turn = DTYPES.index(dtype), place // 2
    half = (place + place_of_dtype + channels_last) % 2 == 0
    if backend in PYTHON:
        if sliced:
            return half and dtype == F32 or backend == "composed" and place_of_dtype == place % len(DTYPES)
        return half or dtype == F32
    if backend == "cuda":
        if sliced:
            return place_of_dtype == place % len(DTYPES) and channels_last == bool(place // len(DTYPES) % 2)
        return (place + place_of_dtype + channels_last) % len(DTYPES) == 0 if exact else half
    case = cases(op)[place]
    if exact:
        return place % 4 == 0 and channels_last == bool(turn // 3 % 2) and dtype == (F32, F16, F64)[turn % 3]
    if sliced:  # in a dtype that every op takes
        return case is by_size(op)[0] and channels_last == bool(turn // 2 % 2) and dtype == (F32, F16)[turn % 2]
    return (case, dtype, channels_last) in covering(op)


@pytest.mark.parametrize("op,case,backend,dtype,channels_last", combinations())
def test_oracle(op: str, case: Case, backend: str, dtype: torch.dtype, channels_last: bool) -> None:
    report = oracle.check(op, case, backend, dtype, channels_last, device=DEVICE)
    assert_passes(report)
    assert_formats(op, case, dtype, channels_last, report)
    if backend not in PYTHON:
        assert_launches(op, case, backend, channels_last, report)


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


def assert_launches(op: str, case: Case, backend: str, channels_last: bool, report: oracle.Report) -> None:
    """Exactly the kernels and copies that the spec lists, and nothing else from ATen."""
    spec = oracle.spec(op)
    forward, backward = spec.launches(case, channels_last, backend)
    assert by_kernel(report.run.forward) == forward
    assert by_kernel(report.run.backward) == backward
    allowed = spec.calls(case, channels_last) if hasattr(spec, "calls") else ({}, {})
    copies = getattr(spec, "COPIES", ())
    assert tuple({k: v for k, v in calls.items() if k not in copies} for calls in report.run.calls) == tuple(allowed)


def by_kernel(launches: Counter[str]) -> dict[str, int]:
    """Launches whichever body of a kernel they took."""
    total = Counter[str]()
    for name, count in launches.items():
        total[name.replace("_sm90_kernel", "_kernel")] += count
    return dict(total)


@pytest.mark.parametrize("op,case,backend,dtype,channels_last", combinations(exact=True))
def test_exact(op: str, case: Case, backend: str, dtype: torch.dtype, channels_last: bool) -> None:
    """Small integers: fp32 accumulation is exact, so results equal the reference rounded once."""
    assert_passes(oracle.check(op, case, backend, dtype, channels_last, exact=True, device=DEVICE))


@pytest.mark.parametrize("op,case,backend,dtype,channels_last", combinations(sliced=True))
def test_hygiene(op: str, case: Case, backend: str, dtype: torch.dtype, channels_last: bool) -> None:
    """Misaligned slices of NaN-filled buffers: same limits, inputs unchanged, the call repeated bit for bit."""
    assert_passes(oracle.check(op, case, backend, dtype, channels_last, sliced=True, device=DEVICE))


def travellers() -> Iterator[Any]:
    """(op, case, backend); of the interpreter's one case an op is not slow."""
    for op, backend in ((name, b) for name in specified_ops() for b in backends(name)):
        for number, case in enumerate(cases(op)):
            slow = backend == "triton" and DEVICE == "cpu" and case is not by_size(op)[0]
            yield pytest.param(op, number, backend, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("op,number,backend", travellers())
def test_nan_and_infinity_travel(op: str, number: int, backend: str) -> None:
    """From every map, and from the incoming gradient, to the results and gradients that they reach in PyTorch.

    A case of a kernel backend takes one value from one place, which each case chooses anew.
    """
    case = cases(op)[number]
    every = list(itertools.product((math.nan, math.inf, -math.inf), range(oracle.places(case)), (False, True)))
    share = every if backend == "composed" else [every[5 * number % len(every)]]
    able = [s for s in share if not oracle.cannot_check(op, case, backend, F32, s[2], DEVICE)]
    for value, place, channels_last in able:
        wrong = oracle.check_travel(op, case, backend, value, place, channels_last, DEVICE)
        assert not wrong, (value, place, channels_last, *wrong)
