"""Which backend runs and why, decided without a GPU: made-up problems, ledgers and environments."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import pyramid_kernels as pk
from pyramid_kernels import backends, ledger
from pyramid_kernels.backends import BackendError, Problem, resolve, select
from pyramid_kernels.ops import all_ops
from pyramid_kernels.ops._shared import triton as shared

POOL, BRANCHES = all_ops()["pyramid_pool"], all_ops()["dilated_branches"]
GPU = Problem("cuda", 90, torch.float16, True, ("avg", "adaptive", 4))
CPU = Problem("cpu", 0, torch.float32, True, ("avg", "adaptive", 4))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty ledger of one's own, no interpreter, nothing remembered."""
    monkeypatch.setenv("PYRAMID_KERNELS_HOME", str(tmp_path))
    monkeypatch.setattr(shared, "INTERPRETED", False)
    for cached in (resolve, backends._announce, ledger.read):
        cached.cache_clear()
    yield tmp_path
    for cached in (resolve, backends._announce, ledger.read):
        cached.cache_clear()


def verify(op: str, result: str = "passed", arch: int = 90) -> None:
    ledger.record("verified", {"op": op, "backend": "triton", "arch": arch, "result": result})
    resolve.cache_clear()


def test_unverified_kernels_fall_back_once_and_say_how_to_change_that(home: Path) -> None:
    with pytest.warns(UserWarning, match="python -m pyramid_kernels verify") as caught:
        decision = resolve(POOL, GPU, "auto")
        resolve.cache_clear()
        assert resolve(POOL, GPU, "auto") == decision
    assert len(caught) == 1
    assert decision.backend == "reference"
    assert any("triton: not verified on compute capability 9.0" in reason for reason in decision.because)


def test_a_verified_memory_bound_kernel_is_on(home: Path) -> None:
    verify("pyramid_pool")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve(POOL, GPU, "auto").backend == "triton"
    with pytest.warns(UserWarning):
        assert resolve(POOL, GPU._replace(arch=80), "auto").backend == "reference"


def test_a_failed_verification_keeps_a_kernel_off(home: Path) -> None:
    verify("pyramid_pool", "failed")
    with pytest.warns(UserWarning):
        assert resolve(POOL, GPU, "auto").backend == "reference"


def test_gemm_kernels_wait_for_a_measurement(home: Path) -> None:
    verify("dilated_branches")
    with pytest.warns(UserWarning, match="GEMM ops are off without one"):
        assert resolve(BRANCHES, GPU, "auto").backend == "reference"
    for ratio, expected in ((1.7, "triton"), (0.9, "reference")):
        ledger.record("ratios", {"op": "dilated_branches", "backend": "triton", "arch": 90, "ratio": ratio})
        resolve.cache_clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decision = resolve(BRANCHES, GPU, "auto")
        assert decision.backend == expected
    assert any("0.90x the unfused chain" in reason for reason in decision.because)


@pytest.mark.parametrize(
    "problem,backend,reason",
    [
        (CPU, "triton", "needs a CUDA device"),
        (GPU._replace(arch=75), "triton", "compute capability 8.0 or newer, got 7.5"),
        (GPU._replace(options=("avg", "adaptive", 9)), "triton", "at most 8 levels, got 9"),
        (GPU, "cuda", "no cuda backend"),
        (GPU, "composed", "fp32 accumulation"),
        (GPU._replace(options=("max", "adaptive", 4)), "composed", "maximum"),
    ],
)
def test_a_named_backend_that_cannot_run_raises_its_reason(
    home: Path, problem: Problem, backend: str, reason: str
) -> None:
    with pytest.raises(BackendError, match=f"pyramid_pool: backend='{backend}' cannot run: .*{reason}"):
        resolve(POOL, problem, backend)


def test_no_float64_kernel_for_gemm_ops(home: Path) -> None:
    with pytest.raises(BackendError, match="no float64 kernel"):
        resolve(BRANCHES, GPU._replace(dtype=torch.float64, options=()), "triton")


def test_a_cpu_chooses_between_composed_and_reference(home: Path) -> None:
    assert select(POOL, CPU, (2, 8, 60, 60), "auto") == "composed"
    assert select(POOL, CPU._replace(options=("max", "adaptive", 4)), (2, 8, 60, 60), "auto") == "reference"
    problem = CPU._replace(options=())
    assert select(BRANCHES, problem, (2, 8, 33, 33, 12, 36), "auto") == "composed"
    assert select(BRANCHES, problem, (2, 8, 65, 65, 12, 36), "auto") == "reference"


def test_unknown_backend_names_the_choices() -> None:
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'cuda', 'triton', 'composed', 'reference'"):
        resolve(POOL, CPU, "fast")


def test_explain_prints_the_decision_and_every_because(capsys: pytest.CaptureFixture[str]) -> None:
    x, w = torch.zeros(1, 4, 33, 33), torch.zeros(2, 4, 3, 3)
    text = pk.explain(pk.functional.dilated_branches, x, [w], dilations=(36,))
    assert capsys.readouterr().out == text + "\n"
    assert text.startswith("dilated_branches: composed  (cpu, float32, contiguous")
    assert "triton:" in text and "cuda:" in text
    norm = (torch.ones(2),) * 4 + (1e-5,)
    text = pk.explain(
        pk.functional.aspp, x, [w], torch.zeros(2, 4, 1, 1), dilations=(3,), norms=[norm], project_norm=norm,
        pool_weight=torch.zeros(2, 4, 1, 1), pool_norm=norm,
    )  # fmt: skip
    assert [line.split(":")[0] for line in text.splitlines() if not line.startswith(" ")][:2] == [
        "aspp", "dilated_branches",
    ]  # fmt: skip
    with pytest.raises(TypeError, match=r"pyramid_kernels\.functional"):
        pk.explain(len, x)


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYRAMID_KERNELS", "TRITON"))} | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


POOLING = """
import torch, pyramid_kernels as pk
print(pk.functional.pyramid_pool(torch.ones(1, 2, 4, 4), (1, 2)).shape)
"""


def test_import_needs_neither_triton_nor_a_gpu() -> None:
    result = python(
        "import sys; sys.modules['triton'] = None\n" + POOLING + "\n"
        "try:\n pk.functional.pyramid_pool(torch.ones(1, 2, 4, 4), (1,), backend='triton')\n"
        "except pk.BackendError as error:\n print(error)\n"
    )
    assert result.returncode == 0, result.stderr
    assert "torch.Size([1, 2, 5])" in result.stdout and "triton is not installed" in result.stdout


def test_importing_the_package_imports_no_triton() -> None:
    result = python("import sys, pyramid_kernels\nprint([m for m in sys.modules if m.split('.')[0] == 'triton'])")
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_environment_names_the_default_backend() -> None:
    assert "torch.Size" in python(POOLING, PYRAMID_KERNELS_BACKEND="reference").stdout
    result = python(POOLING, PYRAMID_KERNELS_BACKEND="triton")
    assert result.returncode == 1 and "backend='triton' cannot run: Triton needs a CUDA device" in result.stderr


RESOLVING = """
import torch
from pyramid_kernels.backends import Problem, resolve
from pyramid_kernels.ops import all_ops
resolve(all_ops()["pyramid_pool"], Problem("cuda", 90, torch.float16, True, ("avg", "adaptive", 4)), "auto")
"""


def test_environment_makes_a_fallback_an_error(tmp_path: Path) -> None:
    settings = {"PYRAMID_KERNELS_HOME": str(tmp_path)}
    assert python(RESOLVING, **settings).returncode == 0
    result = python(RESOLVING, **settings, PYRAMID_KERNELS_STRICT="1")
    assert result.returncode == 1 and "runs the unfused chain on this device" in result.stderr


def test_environment_logs_every_decision(tmp_path: Path) -> None:
    settings = {"PYRAMID_KERNELS_HOME": str(tmp_path)}
    assert "pyramid_pool Problem" not in python(RESOLVING, **settings).stderr
    assert "pyramid_pool Problem" in python(RESOLVING, **settings, PYRAMID_KERNELS_LOG="1").stderr


def test_the_ledger_keeps_one_entry_per_op_backend_and_architecture(home: Path) -> None:
    for result in ("failed", "passed"):
        verify("pyramid_pool", result)
    verify("pyramid_pool", "passed", arch=80)
    entries = [e for e in pk.testing.gpu_ledger() if e["op"] == "pyramid_pool"]
    assert [(e["arch"], e["result"]) for e in entries] == [(90, "passed"), (80, "passed")]
    assert (home / "gpu_ledger.json").is_file()
