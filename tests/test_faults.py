"""Every planted fault is found by the oracle on its op's cases."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests import cuda_faults, faults, hostsim
from tests.faults import Fault


def spread(planted: Sequence[Fault], turn: int) -> Iterator[Any]:
    """All faults as parameters. Each takes a process of its own for seconds: one of every sixth op is not slow."""
    for number, op in enumerate(sorted({fault.op for fault in planted})):
        faults = [fault for fault in planted if fault.op == op]
        for place, fault in enumerate(faults):
            quick = number % 6 == turn and place == len(faults) // 3
            yield pytest.param(fault, id=f"{op}: {fault.what}", marks=[] if quick else [pytest.mark.slow])


TRITON, CUDA = list(spread(faults.FAULTS, 0)), list(spread(cuda_faults.FAULTS, 2))


@pytest.mark.parametrize("parameters", [TRITON, CUDA], ids=["triton", "cuda"])
def test_enough_faults(parameters: list[Any]) -> None:
    assert len(parameters) >= 20


def test_the_line_of_every_fault_is_in_the_shipped_source() -> None:
    for folder, planted in (("pyramid_kernels/ops", faults.FAULTS), ("csrc", cuda_faults.FAULTS)):
        assert [f.what for f in planted if f.line not in (faults.ROOT / folder / f.file).read_text()] == []


@pytest.mark.parametrize("fault", TRITON)
def test_fault_is_found(fault: Fault) -> None:
    found, complaint = faults.found_by(fault)
    assert found, complaint


@pytest.mark.skipif(hostsim.SIMULATOR not in os.environ, reason="needs the host simulator")
@pytest.mark.parametrize("fault", CUDA)
def test_fault_in_cuda_is_found(fault: Fault) -> None:
    found, complaint = cuda_faults.found_by(fault)
    assert found, complaint
