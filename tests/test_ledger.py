"""The user's ledger beside the shipped one: what it records decides what ``auto`` takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyramid_kernels import ledger, testing

ENTRY = {"op": "pyramid_pool", "backend": "triton", "arch": 80, "gpu": "A100", "versions": {}, "commit": "0",
         "ran": "verify", "result": "passed"}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PYRAMID_KERNELS_HOME", str(tmp_path))
    monkeypatch.setattr(ledger, "SHIPPED", tmp_path / "none.json")
    ledger.read.cache_clear()
    yield tmp_path
    ledger.read.cache_clear()


SHIPPED = ledger.SHIPPED


def test_the_shipped_file_is_well_formed() -> None:
    shipped = json.loads(SHIPPED.read_text())
    assert set(shipped) <= {"verified", "ratios"}
    for entry in shipped.get("verified", []):
        assert {"op", "backend", "arch", "gpu", "versions", "commit", "ran", "result"} <= set(entry)


def test_an_unverified_kernel_is_refused_and_a_verified_one_taken() -> None:
    question = ("pyramid_pool", "memory", "triton", 80)
    assert ledger.why_not(*question) == "not verified on compute capability 8.0"
    path = ledger.record("verified", ENTRY)
    assert path == ledger.user_file() and ledger.why_not(*question) is None
    assert ENTRY in testing.gpu_ledger()
    assert ledger.why_not("pyramid_pool", "memory", "triton", 90) == "not verified on compute capability 9.0"


def test_a_failure_replaces_a_pass() -> None:
    ledger.record("verified", ENTRY)
    ledger.record("verified", ENTRY | {"result": "failed"})
    assert "verification failed" in str(ledger.why_not("pyramid_pool", "memory", "triton", 80))
    assert len(json.loads(ledger.user_file().read_text())["verified"]) == 1


def test_gemm_ops_need_a_measurement_and_slow_kernels_are_off() -> None:
    ledger.record("verified", ENTRY)
    assert "no measurement" in str(ledger.why_not("pyramid_pool", "gemm", "triton", 80))
    ratio = {"op": "pyramid_pool", "backend": "triton", "arch": 80}
    ledger.record("ratios", ratio | {"ratio": 0.8})
    assert "0.80x" in str(ledger.why_not("pyramid_pool", "memory", "triton", 80))
    ledger.record("ratios", ratio | {"ratio": 1.3})
    assert ledger.why_not("pyramid_pool", "gemm", "triton", 80) is None


def test_the_home_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ledger.user_file() == tmp_path / "gpu_ledger.json"
    monkeypatch.delenv("PYRAMID_KERNELS_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert ledger.user_file() == tmp_path / "cache" / "pyramid_kernels" / "gpu_ledger.json"
