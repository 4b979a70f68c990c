"""``python bench/gpu_session.py contact --out DIR``, then ``wide``: what a new GPU is asked, in eight minutes each.

*contact*: do the kernels compile, run and give the right numbers, and what are the ceilings and the rivals' times?
*wide*: every Triton body, the generic suite, the benchmarks. A stage is a row of CALLS: its seconds and its jobs, each
a process of its own with a time limit, so that a hang or a lost context costs one job. DIR gets a few files, however
long the session: rows (``rows.jsonl`` and the CSVs of ``bench.run``) as they come, ``state.json`` and a tar of the logs
after every stage, also when the session is stopped. A stage that has passed in DIR is not run again. It needs Python,
torch with CUDA, Triton, nvcc, CMake, Ninja and pybind11; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
PY = sys.executable
BUILD = "build/cuda/90a-real"
#: Seconds of one call, and bytes of every log that are kept: its end.
CALL, KEPT = 480, 1 << 20

MEMORY = (
    "pyramid_pool", "upsample_merge", "pyramid_project", "channel_gate", "max_pool_pyramid", "upsample_cross_entropy",
    "upsample_argmax",
)  # fmt: skip
GEMM = ("dilated_branches", "dilated_branches_train", "aspp", "pyramid_conv", "separable_pyramid")
MODULES = (
    "nn.ASPP", "nn.ASPPv2", "nn.LargeFOV", "nn.SpatialPyramidPooling", "nn.HRFuse", "nn.PPM", "nn.DSPP", "nn.MDSPP",
    "nn.PSPHead", "nn.UPerHead", "nn.DeepLabV3PlusDecoder", "nn.HRNetV2Head", "nn.SPP", "nn.SPPF",
    "nn.AttentionRefinementModule", "nn.FeatureFusionModule", "transformers.SegformerDecodeHead",
)  # fmt: skip


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
    modules: tuple[str, ...] = MODULES
    dtypes: tuple[str, ...] = ("bfloat16", "float16", "float32", "float64")
    backends: tuple[str, ...] = ("cuda", "triton")
    published: tuple[str, ...] = ("dilated_branches", "aspp")

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
        Job("run", (f"{BUILD}/csrc/tests/conformance",), 30, gpu=True),
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
    tests = ("tests/test_ops.py", *(("-k", "test_oracle and one-class", "-m", "not slow") if scope.dry else ()))
    jobs = [Job(f"{op}-{backend}", (*pytest, *tests, "--only-op", op, "--only-backend", backend))
            for backend in scope.backends for op in scope.ops]  # fmt: skip
    rest = ("test_contract", "test_nn", "test_heads", "test_gates", "test_losses", "test_large")
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


class Session:
    """One call into one folder."""

    def __init__(self, call: str, out: Path, scope: Scope, commit: str) -> None:
        self.call, self.out, self.scope = call, out, scope
        self.logs = ROOT / "build" / "gpu_session" / f"{call}-{os.getpid()}"
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir(parents=True)
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False
        self.writing = threading.Lock()
        self.environment = os.environ | {
            "GPU_SESSION_ROWS": str(out / "rows.jsonl"), "PYRAMID_KERNELS_HOME": str(out), "PYTHONPATH": str(ROOT),
            "PYRAMID_KERNELS_CUDA_ARCHS": "90a-real", "TRITON_CACHE_DIR": str(ROOT / "build" / "triton"),
            "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "PATH": f"{Path(PY).parent}:{os.environ.get('PATH', '')}",
            # All cores for the longest file too, not only one file per core.
            "NVCC_APPEND_FLAGS": "-split-compile=0", "PYRAMID_KERNELS_COMMIT": commit,
        }  # fmt: skip

    def run(self, stage: Stage, until: float, again: bool) -> bool:
        """Run a stage unless it has passed; whether it has."""
        states, key, start = self.states(), f"{self.call}/{stage.name}", time.monotonic()
        if states.get(key, {}).get("result") == "passed" and not again:
            print(f"{key}: passed before", flush=True)
            return True
        jobs, results = stage.jobs(self.scope), list[str]()
        with ThreadPoolExecutor(stage.workers) as pool:
            for job in jobs if stage.chained else ():
                results.append(self.job(key, job, until))
                if results[-1] not in ("passed", "needs a GPU"):
                    break
            results += pool.map(lambda job: self.job(key, job, until), () if stage.chained else jobs)
        passed = all(result in ("passed", "needs a GPU") for result in results)
        states[key] = {"result": "passed" if passed else "failed", "seconds": round(time.monotonic() - start, 1)}
        replace(self.out / "state.json", (json.dumps(states, indent=1) + "\n").encode())
        self.pack()
        print(f"{key}: {states[key]['result']} in {states[key]['seconds']} s", flush=True)
        return passed

    def job(self, stage: str, job: Job, until: float) -> str:
        """Run one job within its own limit and the stage's; its result, which is a row as well."""
        start = time.monotonic()
        limit = min(job.seconds * self.scope.patience, until - start)
        if job.gpu and self.scope.dry:
            result = "needs a GPU"
        elif self.stopped or limit < 1:
            result = "not run"
        else:
            result = self.process(job, self.logs / f"{stage.replace('/', '-')}-{job.name}.log", limit)
        row = {"stage": stage, "job": job.name, "result": result, "seconds": round(time.monotonic() - start, 1)}
        with self.writing, (self.out / "rows.jsonl").open("a") as rows:
            rows.write(json.dumps(row) + "\n")
        if result not in ("passed", "needs a GPU"):
            print(f"  {stage} {job.name}: {result} after {row['seconds']} s", flush=True)
        return result

    def process(self, job: Job, log: Path, limit: float) -> str:
        command = [part.replace("{out}", str(self.out)) for part in job.command]
        with log.open("w") as file:
            file.write(f"$ {' '.join(command)}\n")
            file.flush()
            try:  # a group of its own, to be ended with its children, in the session that ends with us
                process = subprocess.Popen(
                    command, cwd=ROOT, env=self.environment, stdout=file, stderr=subprocess.STDOUT, process_group=0
                )
            except FileNotFoundError:
                return f"no {command[0]}"
            self.running.add(process)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                return f"stopped after {limit:.0f} s"
            finally:
                end(process)
                self.running.discard(process)
        return "passed" if code == 0 else f"exit code {code}"

    def stop(self, *_: Any) -> None:
        """End what runs and start nothing more: the stage at work then ends and writes what there is."""
        self.stopped = True
        for process in list(self.running):
            kill(process, signal.SIGKILL)

    def states(self) -> dict[str, Any]:
        path = self.out / "state.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def pack(self) -> None:
        """The end of every log in one file."""
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as tar:
            for path in sorted(self.logs.iterdir()):
                data = path.read_bytes()[-KEPT:]
                entry = tarfile.TarInfo(path.name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        replace(self.out / f"{self.call}.tar.gz", content.getvalue())


def end(process: subprocess.Popen[bytes]) -> None:
    """End a job and its children (Ninja ends its own only if asked); one that hangs in the driver is not waited for."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        kill(process, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)


def kill(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def described() -> str:
    """The commit of this tree; "unknown" where it is no checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    if not shutil.which("git") or not (ROOT / ".git").exists():
        return "unknown"
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"


def replace(path: Path, content: bytes) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)


def plan() -> str:
    lines = []
    for call, stages in CALLS.items():
        lines.append(f"{call}: {sum(stage.seconds for stage in stages)} of {CALL} s")
        for stage in stages:
            jobs = stage.jobs(Scope())
            lines.append(f"  {stage.name:12} {stage.seconds:4} s  {len(jobs):3} jobs, {stage.workers} at a time")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python bench/gpu_session.py", description="The first session on a GPU.")
    parser.add_argument("call", nargs="?", choices=CALLS)
    parser.add_argument("--plan", action="store_true", help="print the stages with their seconds")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu-session")), help="default: $OUT")
    parser.add_argument("--again", action="store_true", help="run stages that have passed already, too")
    parser.add_argument("--commit", help="what rows name where the tree is no checkout")
    parser.add_argument("--dry-run", action="store_true", help="a little of every stage, in simulator and interpreter")
    args = parser.parse_args()
    if args.plan:
        print(plan())
        return 0
    if not args.call:
        parser.error(f"a call is missing: one of {', '.join(CALLS)}")
    commit = args.commit or ("dry-run" if args.dry_run else described())
    if commit.endswith("-dirty"):
        parser.error(f"the tree is {commit}: commit its changes, or its rows could not be reproduced")
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    session = Session(args.call, out, TINY if args.dry_run else Scope(), commit)
    signal.signal(signal.SIGTERM, session.stop)
    signal.signal(signal.SIGINT, session.stop)
    until, failed = time.monotonic(), []
    for stage in CALLS[args.call]:
        until += stage.seconds * session.scope.patience
        if not session.stopped and not session.run(stage, until, args.again):
            failed.append(stage.name)
    print("stopped" if session.stopped else f"failed: {', '.join(failed)}" if failed else "every stage passed")
    return int(bool(failed) or session.stopped)


if __name__ == "__main__":
    raise SystemExit(main())
