"""Every planted fault is found by the oracle on its op's cases."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests import cuda_faults, faults, hostsim
from tests.faults import Fault

#: Each compiles its op again, for ten seconds or so: every op's first ones are enough for `make test`.
EACH = 7


def compiled() -> Iterator[Any]:
    seen = Counter[str]()
    for fault in cuda_faults.FAULTS:
        seen[fault.op] += 1
        marks = [pytest.mark.slow] if seen[fault.op] > EACH else []
        yield pytest.param(fault, id=f"{fault.op}: {fault.what}", marks=marks)


def test_enough_faults() -> None:
    assert len(faults.FAULTS) >= 20
    assert sum(not parameter.marks for parameter in compiled()) >= 20


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda f: f"{f.op}: {f.what}")
def test_fault_is_found(fault: Fault) -> None:
    found, complaint = faults.found_by(fault)
    assert found, complaint


@pytest.mark.skipif(hostsim.SIMULATOR not in os.environ, reason="needs the host simulator")
@pytest.mark.parametrize("fault", compiled())
def test_fault_in_cuda_is_found(fault: Fault) -> None:
    found, complaint = cuda_faults.found_by(fault)
    assert found, complaint
