"""Every planted fault is found by the oracle on its op's cases."""

from __future__ import annotations

import os

import pytest

from tests import cuda_faults, faults, hostsim
from tests.faults import Fault


def test_enough_faults() -> None:
    assert len(faults.FAULTS) >= 20
    assert len(cuda_faults.FAULTS) >= 20


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda f: f"{f.op}: {f.what}")
def test_fault_is_found(fault: Fault) -> None:
    found, complaint = faults.found_by(fault)
    assert found, complaint


@pytest.mark.skipif(hostsim.SIMULATOR not in os.environ, reason="needs the host simulator")
@pytest.mark.parametrize("fault", cuda_faults.FAULTS, ids=lambda f: f"{f.op}: {f.what}")
def test_fault_in_cuda_is_found(fault: Fault) -> None:
    found, complaint = cuda_faults.found_by(fault)
    assert found, complaint
