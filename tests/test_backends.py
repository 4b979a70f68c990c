"""Which backend runs: decisions about problems on GPUs that are not here, and what is said about them."""

import functools
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pyramid_kernels as pk
from pyramid_kernels import _native, backends
from pyramid_kernels.backends import BackendError, Problem, resolve
from pyramid_kernels.ops import all_ops
from pyramid_kernels.ops._shared import triton as shared
from pyramid_kernels.verification import ledger
from tests import processes
from tests.test_errors import GOOD

HOPPER = Problem("cuda", 90, torch.float16, True, ("avg", "adaptive", 4, 16, 16), "NVIDIA H100")
BODY = {"backend": "triton", "dtype": "float16", "layout": "channels_last", "arch": 90, "gpu": "NVIDIA H100"}
POOL = all_ops()["pyramid_pool"]


@pytest.fixture(autouse=True)
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty ledger, nothing remembered, kernels that are compiled, not interpreted, and a core for Ampere alone."""
    monkeypatch.setenv("PYRAMID_KERNELS_HOME", str(tmp_path))
    monkeypatch.setattr(ledger, "SHIPPED", tmp_path / "none.json")
    monkeypatch.setattr(shared, "INTERPRETED", False)
    monkeypatch.setattr(shared, "cannot_build", lambda: None)
    core = {"cuda": SimpleNamespace(architectures="80-real"), "cpu": "CUDA kernels need a CUDA device, got cpu"}
    monkeypatch.setattr(_native, "module", core.__getitem__)
    memories = (ledger.read, resolve, backends._announce)
    for memory in memories:
        memory.cache_clear()
    yield
    for memory in memories:
        memory.cache_clear()


def verified(op: str = "pyramid_pool", **other: str) -> None:
    ledger.record("verified", {"op": op, **BODY, "result": "passed", **other})


def test_auto_takes_a_verified_kernel() -> None:
    verified()
    decision = resolve(POOL, HOPPER, "auto")
    assert decision.backend == "triton"
    assert any(reason.startswith("cuda: ") for reason in decision.because)


def test_auto_falls_back_with_one_warning_that_names_the_commands_it_needs() -> None:
    with pytest.warns(UserWarning, match="python -m pyramid_kernels verify --op pyramid_pool") as caught:
        assert resolve(POOL, HOPPER, "auto").backend == "reference"
    assert "not verified on compute capability 9.0 for float16 channels_last" in str(caught[0].message)
    assert " tune " not in str(caught[0].message), "an op bound by memory needs no measurement"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve.cache_clear()
        assert resolve(POOL, HOPPER, "auto").backend == "reference"


def test_a_failure_in_one_dtype_leaves_the_others_on() -> None:
    verified()
    verified(dtype="float64", result="failed")
    assert resolve(POOL, HOPPER, "auto").backend == "triton"
    with pytest.warns(UserWarning, match="verification failed on compute capability 9.0 for float64"):
        assert resolve(POOL, HOPPER._replace(dtype=torch.float64), "auto").backend == "reference"


def test_a_result_of_another_gpu_of_the_architecture_does_not_count() -> None:
    verified(gpu="NVIDIA GH200")
    with pytest.warns(UserWarning, match="only with other versions, kernel sources or GPUs"):
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
    with pytest.warns(UserWarning, match="GEMM ops are off") as caught:
        assert resolve(all_ops()["dilated_branches"], problem, "auto").backend == "reference"
    assert "tune --op dilated_branches" in str(caught[0].message) and " verify " not in str(caught[0].message)
    ledger.record("ratios", {"op": "dilated_branches", **BODY, "ratio": 1.4})
    assert resolve(all_ops()["dilated_branches"], problem, "auto").backend == "triton"


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


def test_rocm_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """An MI200 calls itself 9.0 as a Hopper does."""
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(_native, "module", lambda device: SimpleNamespace(architectures="90a-real"))
    for backend in ("cuda", "triton"):
        assert "for ROCm" in str(backends.cannot(POOL, HOPPER, backend))


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without compilers, and with Python's headers in a folder of their own."""
    (tmp_path / "Python.h").touch()
    monkeypatch.undo()
    monkeypatch.setattr(shared, "INTERPRETED", False)
    monkeypatch.setattr(shared.shutil, "which", lambda name: None)
    monkeypatch.setattr(shared.sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    for name in ("CC", "CPATH", "C_INCLUDE_PATH"):
        monkeypatch.delenv(name, raising=False)
    shared.cannot_build.cache_clear()
    return tmp_path


def reason() -> str | None:
    shared.cannot_build.cache_clear()
    return backends.cannot(POOL, HOPPER, "triton")


def test_triton_needs_a_c_compiler_and_pythons_headers(builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is none; install gcc or set CC" in str(reason())
    monkeypatch.setenv("CC", "mycc")
    assert "CC='mycc' is none" in str(reason())
    monkeypatch.setattr(shared.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert reason() is None
    monkeypatch.delenv("CC")
    assert reason() is None
    (builds / "Python.h").unlink()
    assert "install Python's headers" in str(reason())
    (builds / "own").mkdir()
    (builds / "own" / "Python.h").touch()
    monkeypatch.setenv("CPATH", f"/nowhere{os.pathsep}{builds / 'own'}")
    assert reason() is None
    shared.cannot_build.cache_clear()


@pytest.mark.parametrize("name", list(all_ops()))
def test_composed_is_the_algebra_where_there_is_some(name: str) -> None:
    """An op without a composed form runs its reference, and explain says so; no message names what an op has not."""
    op, call = all_ops()[name], getattr(pk.functional, name)
    assert call(**GOOD[name], backend="composed") is not None
    text = pk.explain(call, **GOOD[name], backend="composed")
    assert text.startswith(f"{name}: {'composed' if op.composed else 'reference'}  (")
    assert (f"composed: {name} has no composed form" in text) == (op.composed is None)
    problem = call.problems(**GOOD[name])[0][1]._replace(device="cpu", dtype=torch.float64)
    with pytest.raises(BackendError) as caught:
        resolve(op, problem, "triton")
    names = "'composed' or 'reference'" if op.composed else "'reference'"
    assert str(caught.value).endswith(f"; use backend={names}")
    for named in re.findall(r"'(composed|reference)'", str(caught.value)):
        assert resolve(op, problem, named).backend == named


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
    assert "measured" not in text, "nothing was, for this call"
    assert capsys.readouterr().out.strip() == text
    assert text.startswith("pyramid_pool: composed  (cpu, float32, contiguous, sizes (1, 64, 200, 200))")
    assert "triton: Triton needs a CUDA device" in text and "cuda: CUDA kernels need a CUDA device" in text
    with pytest.raises(TypeError, match="fn must be a function of pyramid_kernels.functional, got relu"):
        pk.explain(torch.relu)
    with pytest.raises(TypeError, match=r"got the module Sequential; print\(pk.fuse_\(model\)\) says") as caught:
        pk.explain(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3)), torch.zeros(1))
    assert "\n" not in str(caught.value)


def test_every_public_function_of_an_op_can_be_explained() -> None:
    for name in all_ops():
        assert hasattr(getattr(pk.functional, name), "problems"), name


POOLED = "import torch, pyramid_kernels as pk; pk.functional.pyramid_pool(torch.zeros(1, 2, 8, 8), (1, 2))"


python = functools.partial(processes.python, "-c", TRITON_INTERPRET=None)


def test_the_environment_names_the_default_backend() -> None:
    done = python(POOLED, PYRAMID_KERNELS_BACKEND="triton")
    assert done.returncode == 1 and "backend='triton' cannot run: Triton needs a CUDA device" in done.stderr


WRONG = {
    "PYRAMID_KERNELS_BACKEND": "foo", "PYRAMID_KERNELS_STRICT": "yes", "PYRAMID_KERNELS_LOG": "2",
    "PYRAMID_KERNELS_PLANS": "no",
}  # fmt: skip


@pytest.mark.parametrize("name", [list(WRONG)[0], *(pytest.param(n, marks=pytest.mark.slow) for n in list(WRONG)[1:])])
def test_a_wrong_setting_is_named_at_the_first_use(name: str) -> None:
    imported, used = "import pyramid_kernels", POOLED.replace("(1, 2))", "(1, 2), backend='reference')")
    assert python(imported, **{name: WRONG[name]}).returncode == 0
    done = python(used, **{name: WRONG[name]})
    assert done.returncode == 1 and f"ValueError: {name} must be one of" in done.stderr
    assert f"got {WRONG[name]!r}" in done.stderr
    assert python(used, **{name: ""}).returncode == 0


def test_explain_knows_the_environment() -> None:
    code = f"{POOLED}; pk.explain(pk.functional.pyramid_pool, torch.zeros(1, 2, 8, 8), (1, 2))"
    done = python(code, PYRAMID_KERNELS_BACKEND="composed")
    assert done.stdout.splitlines()[0].startswith("pyramid_pool: composed")
    assert done.stdout.splitlines()[1:] == ["  named explicitly"]


CALLED = """
import torch, pyramid_kernels as pk
fn = pk.functional.pyramid_pool
if {compiled}:
    fn = torch.compile(fn, fullgraph=True, dynamic=True, backend="eager")
for x in (torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 9, 8), torch.zeros(1, 64, 200, 200), torch.zeros(1, 2, 8, 8)):
    fn(x, (1, 2))
"""


@pytest.mark.parametrize("compiled", [False, True])
def test_the_log_tells_every_new_decision_on_a_cpu(compiled: bool) -> None:
    done = python(CALLED.format(compiled=compiled), PYRAMID_KERNELS_LOG="1")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if " -> " in line]
    assert [line.split(" -> ")[1].split(" ")[0] for line in lines] == ["reference", "composed"], done.stderr
    assert lines[0].startswith("pyramid_pool Problem(device='cpu'") and "too small a map" in lines[0]


def test_the_log_tells_decisions() -> None:
    code = POOLED.replace("(1, 2))", "(1, 2), backend='reference')")
    code += "; from pyramid_kernels.backends import *; from pyramid_kernels.ops import all_ops"
    code += "; problem = Problem('cuda', 90, torch.half, True, ('avg', 'adaptive', 2, 16, 16))"
    code += "; resolve(all_ops()['pyramid_pool'], problem, 'auto')"
    done = python(code, PYRAMID_KERNELS_LOG="1")
    assert done.returncode == 0 and "-> reference" in done.stderr
    done = python(code, PYRAMID_KERNELS_STRICT="1")
    assert done.returncode == 1 and "BackendError" in done.stderr


def test_the_name_of_a_gpu_is_a_constant_to_the_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_gpu_name", lambda device: "NVIDIA H200")
    counted = torch.compile(lambda x: x + len(backends.gpu_name(x.device)), fullgraph=True, backend="eager")
    assert counted(torch.zeros(1)).item() == len("NVIDIA H200")


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
