"""Which backend runs: decisions about problems on GPUs that are not here, and what is said about them."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pyramid_kernels as pk
from pyramid_kernels import _native, backends, ledger
from pyramid_kernels.backends import BackendError, Problem, resolve
from pyramid_kernels.ops import all_ops, find_op
from pyramid_kernels.ops._shared import triton as shared

ROOT = Path(__file__).resolve().parent.parent
HOPPER = Problem("cuda", 90, torch.float16, True, ("avg", "adaptive", 4, 16, 16))
POOL = find_op("pyramid_pool")


@pytest.fixture(autouse=True)
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty ledger, nothing remembered, kernels that are compiled, not interpreted, and a core for Ampere alone."""
    monkeypatch.setenv("PYRAMID_KERNELS_HOME", str(tmp_path))
    monkeypatch.setattr(ledger, "SHIPPED", tmp_path / "none.json")
    monkeypatch.setattr(shared, "INTERPRETED", False)
    core = {"cuda": SimpleNamespace(architectures="80-real"), "cpu": "CUDA kernels need a CUDA device, got cpu"}
    monkeypatch.setattr(_native, "module", core.__getitem__)
    memories = (ledger.read, resolve, backends._announce)
    for memory in memories:
        memory.cache_clear()
    yield
    for memory in memories:
        memory.cache_clear()


def verified(op: str = "pyramid_pool", backend: str = "triton", arch: int = 90) -> None:
    ledger.record("verified", {"op": op, "backend": backend, "arch": arch, "result": "passed"})


def test_auto_takes_a_verified_kernel() -> None:
    verified()
    decision = resolve(POOL, HOPPER, "auto")
    assert decision.backend == "triton"
    assert any(reason.startswith("cuda: ") for reason in decision.because)


def test_auto_falls_back_with_one_warning_that_names_the_commands() -> None:
    with pytest.warns(UserWarning, match="python -m pyramid_kernels verify") as caught:
        assert resolve(POOL, HOPPER, "auto").backend == "reference"
    assert "python -m pyramid_kernels tune" in str(caught[0].message)
    assert "not verified on compute capability 9.0" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve.cache_clear()
        assert resolve(POOL, HOPPER, "auto").backend == "reference"


def test_strict_turns_the_warning_into_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_STRICT", True)
    with pytest.raises(BackendError, match="runs the unfused chain"):
        resolve(POOL, HOPPER, "auto")


def test_auto_passes_over_a_verified_kernel_that_cannot_run() -> None:
    verified()
    problem = HOPPER._replace(options=("avg", "fixed", 1, 64, 64))
    with pytest.warns(UserWarning, match="at most 32 bins along an axis"):
        assert resolve(POOL, problem, "auto").backend == "reference"


def test_gemm_ops_stay_off_without_a_measurement() -> None:
    verified("dilated_branches")
    problem = HOPPER._replace(options=())
    with pytest.warns(UserWarning, match="GEMM ops are off"):
        assert resolve(find_op("dilated_branches"), problem, "auto").backend == "reference"
    ledger.record("ratios", {"op": "dilated_branches", "backend": "triton", "arch": 90, "ratio": 1.4})
    resolve.cache_clear()
    assert resolve(find_op("dilated_branches"), problem, "auto").backend == "triton"


@pytest.mark.parametrize(
    "problem,backend,reason",
    [
        (HOPPER._replace(arch=75), "triton", "needs compute capability 8.0 or newer, got 7.5"),
        (HOPPER._replace(device="cpu", arch=0), "triton", "Triton needs a CUDA device, got cpu"),
        (HOPPER, "cuda", "built for 80-real, found compute capability 9.0"),
        (HOPPER._replace(options=("avg", "adaptive", 9, 16, 16)), "triton", "at most 8 levels, got 9"),
        (HOPPER._replace(options=("avg", "adaptive", 2, 64, 64)), "triton", "at most 32 bins along an axis"),
        (HOPPER._replace(options=("max", *HOPPER.options[1:])), "composed", "a maximum is not a sum"),
    ],
)
def test_a_named_backend_that_cannot_run_says_why(problem: Problem, backend: str, reason: str) -> None:
    with pytest.raises(BackendError, match=f"pyramid_pool: backend='{backend}' cannot run: {reason}"):
        resolve(POOL, problem, backend)


def test_an_unknown_backend_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'cuda', .*, got 'fast'"):
        pk.functional.pyramid_pool(torch.zeros(1, 1, 4, 4), (1,), backend="fast")


def test_on_a_cpu_auto_chooses_between_composed_and_reference() -> None:
    problem = HOPPER._replace(device="cpu", arch=0, dtype=torch.float32)
    large, small = (1, 2048, 60, 60), (1, 8, 32, 32)
    for changes, sizes, expected in (
        ({}, large, "composed"),
        ({}, small, "reference"),
        ({"channels_last": False}, large, "composed"),
        ({"options": ("avg", "adaptive", 1, 16, 16)}, large, "reference"),
        ({"options": ("max", "adaptive", 2, 16, 16)}, large, "reference"),
    ):
        assert backends.select(POOL, problem._replace(**changes), sizes, "auto") == expected, (changes, sizes)


def test_explain_prints_the_decision_and_every_reason(capsys: pytest.CaptureFixture[str]) -> None:
    text = pk.explain(pk.functional.pyramid_pool, torch.zeros(1, 64, 200, 200), (1, 2))
    assert capsys.readouterr().out.strip() == text
    assert text.startswith("pyramid_pool: composed  (cpu, float32, contiguous, sizes (1, 64, 200, 200))")
    assert "triton: Triton needs a CUDA device" in text and "cuda: CUDA kernels need a CUDA device" in text
    with pytest.raises(TypeError, match="fn must be a function of pyramid_kernels.functional"):
        pk.explain(torch.relu)


def test_every_public_function_of_an_op_can_be_explained() -> None:
    for name in all_ops():
        assert hasattr(getattr(pk.functional, name), "problems"), name


POOLED = "import torch, pyramid_kernels as pk; pk.functional.pyramid_pool(torch.zeros(1, 2, 8, 8), (1, 2))"


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    inherited |= {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, "-c", code], env=inherited, capture_output=True, text=True, timeout=120)


def test_the_environment_names_the_default_backend() -> None:
    done = python(POOLED, PYRAMID_KERNELS_BACKEND="triton")
    assert done.returncode == 1 and "backend='triton' cannot run: Triton needs a CUDA device" in done.stderr


def test_the_log_tells_decisions() -> None:
    code = POOLED.replace("(1, 2))", "(1, 2), backend='reference')")
    code += "; from pyramid_kernels.backends import *; from pyramid_kernels.ops import find_op"
    code += "; problem = Problem('cuda', 90, torch.half, True, ('avg', 'adaptive', 2, 16, 16))"
    code += "; resolve(find_op('pyramid_pool'), problem, 'auto')"
    done = python(code, PYRAMID_KERNELS_LOG="1")
    assert done.returncode == 0 and "-> reference" in done.stderr
    done = python(code, PYRAMID_KERNELS_STRICT="1")
    assert done.returncode == 1 and "BackendError" in done.stderr


def test_importing_the_package_imports_neither_triton_nor_dynamo() -> None:
    code = "import sys, torch; before = set(sys.modules); import pyramid_kernels; new = set(sys.modules) - before"
    done = python(f"{code}; print([m for m in new if m.split('.')[0] == 'triton' or m.startswith('torch._dynamo')])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_everything_but_the_kernels_works_without_triton() -> None:
    block = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton":
            raise ModuleNotFoundError("No module named 'triton'", name="triton")
sys.meta_path.insert(0, Blocked())
"""
    done = python(block + POOLED + "; print(pk.explain(pk.functional.pyramid_pool, torch.zeros(1, 2, 8, 8), (1, 2)))")
    assert done.returncode == 0, done.stderr
    assert "triton is not installed; install it with: pip install triton" in done.stdout
    done = python(block + POOLED.replace("(1, 2))", "(1, 2), backend='triton')"))
    assert "BackendError: pyramid_pool: backend='triton' cannot run: triton is not installed" in done.stderr
