"""Every planted fault is found by the oracle on its op's cases."""

from __future__ import annotations

import pytest

from tests.faults import FAULTS, Fault, found_by


def test_enough_faults() -> None:
    assert len(FAULTS) >= 20


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f.op}: {f.what}")
def test_fault_is_found(fault: Fault) -> None:
    found, complaint = found_by(fault)
    assert found, complaint
