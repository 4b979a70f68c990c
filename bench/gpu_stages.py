"""The stages of ``bench/gpu_session.py``: what each runs, in which call, and the seconds that it may take."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

from pyramid_kernels.benchmark.modules import MODULES
from pyramid_kernels.ops import all_ops

PY = sys.executable
BUILD = "build/cuda/90a-real"
#: Seconds of one call.
CALL = 480

MEMORY, GEMM = (tuple(name for name, op in all_ops().items() if op.bound == bound) for bound in ("memory", "gemm"))


class Job(NamedTuple):
    """One process; ``{out}`` in its command is the folder of results. ``gpu``: a dry run leaves it out."""

    name: str
    command: tuple[str, ...]
    seconds: int = CALL
    gpu: bool = False


class Scope(NamedTuple):
    """What the stages are about: all of it, or as little as exercises their code without a GPU."""

    dry: bool = False
    patience: int = 1  # by which limits are multiplied
    memory: tuple[str, ...] = MEMORY
    gemm: tuple[str, ...] = GEMM
    modules: tuple[str, ...] = tuple(MODULES)
    dtypes: tuple[str, ...] = ("bfloat16", "float16", "float32", "float64")
    backends: tuple[str, ...] = ("cuda", "triton")
    published: tuple[str, ...] = ("dilated_branches",)

    @property
    def ops(self) -> tuple[str, ...]:
        return (*self.gemm, *self.memory)


TINY = Scope(True, 60, ("upsample_argmax",), (), (), ("float32",), ("triton",), ("separable_pyramid",))


class Stage(NamedTuple):
    """Jobs side by side, ``workers`` at a time; ``chained``: one after the other, none after one that failed."""

    name: str
    seconds: int
    jobs: Callable[[Scope], list[Job]]
    workers: int = 1
    chained: bool = False


def machine(scope: Scope) -> list[Job]:
    return [Job("nvidia-smi", ("nvidia-smi",), 10, gpu=True), Job("info", (PY, "-m", "pyramid_kernels", "info"))]


def build(scope: Scope) -> list[Job]:
    # Without nvcc this builds nothing, and a module that was brought along stays.
    core = Job("core", (PY, "setup.py", "build_ext", "--inplace"), gpu=True)
    return [core, *([Job("simulator", (PY, "-m", "tests.hostsim"))] if scope.dry else [])]


def conformance(scope: Scope) -> list[Job]:
    """Every wrapper of a PTX instruction against its emulation, built where the kernels are compiled already."""
    return [
        Job("configure", ("cmake", "-B", BUILD, "-DPK_TESTS=ON"), gpu=True),
        Job("compile", ("cmake", "--build", BUILD, "--target", "conformance", "-j"), gpu=True),
        Job("run", (f"{BUILD}/hostsim/conformance",), 30, gpu=True),
    ]


def kernels(scope: Scope) -> list[Job]:
    command = (PY, "-m", "bench.contact", "--dtypes", *scope.dtypes, "--backend", "cuda")
    return [Job(op, (*command, op), 64) for op in scope.ops]


def ceilings(scope: Scope) -> list[Job]:
    dtypes = [dtype for dtype in scope.dtypes if dtype != "float64"]
    return [Job("ceilings", (PY, "-m", "bench.contact", "--ceilings", "--dtypes", *dtypes))]


def published(scope: Scope) -> list[Job]:
    """cuDNN's times and ours first: what Inductor takes to compile may take all that is left."""
    plain = [Job(op, bench(scope, (op,)), 25) for op in scope.published]
    inductor = [Job(f"{op}-inductor", bench(scope, (op,), "--mode", "forward", compiled=True), 40, gpu=True)
                for op in scope.published]  # fmt: skip
    return [*plain, *inductor]


def triton(scope: Scope) -> list[Job]:
    sources = ("CASES",) if scope.dry else ("CASES", "BENCH")
    return [Job(f"{op}-{dtype}", (PY, "-m", "tests.aot", "--warm", op, dtype, "--sources", *sources))
            for dtype in scope.dtypes for op in scope.ops]  # fmt: skip


def suite(scope: Scope) -> list[Job]:
    """The generic tests per op and backend, then whatever else of the suite the time allows."""
    pytest = (PY, "-m", "pytest", "-q", "-p", "bench.session_rows", "-p", "no:cacheprovider", "-p", "no:xdist")
    tests = ("tests/test_ops.py", *(("-k", "test_oracle", "-m", "not slow") if scope.dry else ()))
    jobs = [Job(f"{op}-{backend}", (*pytest, *tests, "--only-op", op, "--only-backend", backend))
            for backend in scope.backends for op in scope.ops]  # fmt: skip
    rest = ("test_contract", "test_module_contract", "test_nn", "test_heads", "test_gates", "test_losses", "test_large")
    return jobs if scope.dry else [*jobs, *(Job(name, (*pytest, f"tests/{name}.py")) for name in rest)]


def benchmarks(scope: Scope) -> list[Job]:
    groups = {"memory": scope.memory, "gemm": scope.gemm, "modules": scope.modules}
    return [Job(name, bench(scope, names), 60) for name, names in groups.items() if names]


def bench(scope: Scope, names: tuple[str, ...], *more: str, compiled: bool = False) -> tuple[str, ...]:
    """The suite has verified what it times; ``bench.run`` compares its results with eager's all the same."""
    command = (PY, "-m", "bench.run", "--no-verify", "--out", "{out}", *(() if compiled else ("--no-compile",)))
    return (*command, *more, *(("--quick",) if scope.dry else ()), *(w for name in names for w in ("--op", name)))


#: Call -> its stages. What one leaves of its seconds the next may take; together they stay within CALL.
CALLS: dict[str, tuple[Stage, ...]] = {
    "contact": (
        Stage("machine", 15, machine),
        Stage("build", 170, build, chained=True),
        Stage("conformance", 35, conformance, chained=True),
        Stage("kernels", 130, kernels, workers=6),
        Stage("ceilings", 20, ceilings),
        Stage("published", 110, published),
    ),
    "wide": (
        Stage("build", 170, build, chained=True),  # seconds where the machine still holds what contact built
        Stage("triton", 90, triton, workers=16),
        Stage("suite", 130, suite, workers=14),
        Stage("bench", 90, benchmarks),
    ),
}
