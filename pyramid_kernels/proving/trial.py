"""Candidates tried on a model's own calls, each in a process that may crash or hang instead of the user's.

``main`` is what such a process runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from .. import functional
from ..backends import OPS, Backend, Op, Problem
from ..ops._shared import launch
from ..verification.rows import lost

#: Seconds that one trial may take, and those that a process may take to begin.
LIMIT, BEGIN = 120.0, 120.0
#: The error of what gives no result, or another one.
WRONG = 1e9


class Modes(NamedTuple):
    """What is on around a call."""

    grad: bool
    autocast: tuple[tuple[str, torch.dtype], ...]

    @classmethod
    def now(cls) -> Modes:
        devices = filter(torch.is_autocast_enabled, ("cpu", "cuda"))
        return cls(torch.is_grad_enabled(), tuple((d, torch.get_autocast_dtype(d)) for d in devices))

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(self.grad))
            on = dict(self.autocast)
            for device in ("cpu", "cuda"):
                stack.enter_context(torch.autocast(device, on.get(device), enabled=device in on))
            yield


def tensors(value: Any) -> list[Tensor]:
    return [t for t in tree_leaves(value) if isinstance(t, Tensor)]


def copied(value: Any, grad: bool = True) -> Any:
    """``value`` with every tensor as a new leaf, which wants its gradient as before, or without ``grad`` none."""
    return tree_map_only(Tensor, lambda t: t.detach().clone().requires_grad_(grad and t.requires_grad), value)


def backward(outputs: Any, leaves: Sequence[Tensor]) -> None:
    """The gradients of all outputs that have some; ``leaves`` keep those that they had."""
    given = [y for y in tensors(outputs) if y.requires_grad]
    kept = [t.grad for t in leaves]
    for t in leaves:
        t.grad = None
    if given:  # not by ``grad``, which checkpoints refuse
        torch.autograd.backward(given, [torch.ones_like(y) for y in given])
    for t, before in zip(leaves, kept, strict=True):
        t.grad = before


class Call(NamedTuple):
    """One call of an op's public function: its arguments by name, and what is on around it."""

    op: str
    arguments: dict[str, Any]
    modes: Modes

    @property
    def training(self) -> bool:
        """Whether a gradient is wanted."""
        return self.modes.grad

    def entry(self) -> tuple[Op, Problem, tuple[int, ...]]:
        """What the op's backend is chosen by."""
        with self.modes.on():
            entries = getattr(functional, self.op).problems(**self.arguments)
        return next(e for e in entries if e[0] is OPS[self.op])

    def run(self, backend: Backend) -> list[Tensor]:
        """The outputs of the call."""
        with self.modes.on():
            y = getattr(functional, self.op)(**self.arguments, backend=backend)
        return [y] if isinstance(y, Tensor) else list(y)

    def step(self, backend: Backend) -> None:
        """The call, and its backward where a gradient is wanted."""
        outputs = self.run(backend)
        if self.training:
            backward(outputs, [t for t in tensors(self.arguments) if t.requires_grad])


class Verdict(NamedTuple):
    """The error over its limit, 1 and less where ``wrong`` is empty; else what is wrong."""

    error: float
    wrong: str = ""
    lasting: bool = True  # nothing but other sources changes it: no shortage of memory, no process that would not start


def judged(call: Call, backend: Backend) -> Verdict:
    """What the oracle says of ``backend`` for ``call``, in this process."""
    from ..verification import oracle

    _, problem, _ = call.entry()
    with call.modes.on():
        try:
            with torch.device("cpu"):  # whatever the default is
                report = oracle.check_arguments(call.op, call.arguments, backend, problem.dtype)
        except (torch.OutOfMemoryError, MemoryError) as error:
            return Verdict(WRONG, f"{type(error).__name__}", lasting=False)
        except Exception as error:  # whatever a compiler, a driver or an op throws is this candidate's result
            return Verdict(WRONG, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
    return Verdict(min(report.worst, WRONG), "; ".join(report.failures()[:1]))


def tried(jobs: Sequence[tuple[Call, Backend]]) -> list[Verdict]:
    """The verdict on every job, in order, from processes of their own."""
    try:
        return _tried(jobs)
    except OSError as error:  # no room for files, or no interpreter to start
        untried = Verdict(WRONG, f"it could not be tried: {type(error).__name__}: {error}", lasting=False)
        return [untried] * len(jobs)


def _tried(jobs: Sequence[tuple[Call, Backend]]) -> list[Verdict]:
    if not jobs:
        return []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save([(call.op, call.arguments, tuple(call.modes), backend) for call, backend in jobs], folder / "jobs")
        while (first := _done(folder)) < len(jobs):
            wrong, began = _run(folder, first), (folder / "began").exists()
            stopped = _done(folder)
            for i in range(stopped, len(jobs) if wrong else stopped):
                _write(folder, i, Verdict(WRONG, wrong, lasting=began))
                if began:
                    break  # the next process takes up what follows; one that never began would not either
        return [Verdict(*json.loads((folder / f"{i}.json").read_text())) for i in range(len(jobs))]


def _done(folder: Path) -> int:
    return len(list(folder.glob("*.json")))


def _write(folder: Path, i: int, verdict: Verdict) -> None:
    half = folder / "half"
    half.write_text(json.dumps(verdict))
    half.replace(folder / f"{i}.json")


def _run(folder: Path, first: int) -> str:
    """Run jobs from ``first`` on in a process until it ends; why, if that is the fault of the job that it was at."""
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(Path(__file__).parents[2]))))
    # Not -m, which would look for modules in the working folder first.
    code = f"import sys; sys.path[:1] = []; from {__name__} import main; sys.exit(main(*sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(folder), str(first)]
    began, said = folder / "began", folder / "said"
    began.unlink(missing_ok=True)
    done, since = first, time.monotonic()
    with said.open("w") as errors:
        environment = os.environ | {"PYTHONPATH": path}
        child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            while child.poll() is None:
                time.sleep(0.02)
                if done < (now := _done(folder) + began.exists()):
                    done, since = now, time.monotonic()
                if time.monotonic() - since > (LIMIT if began.exists() else BEGIN):
                    return f"it did not end within {LIMIT:g} s"
        finally:  # Ctrl-C included
            child.kill()
            child.wait()
    if child.returncode < 0:
        return f"its process ended by {signal.Signals(-child.returncode).name}"
    if child.returncode == 0 and _done(folder) > first:
        return ""
    last = (said.read_text().strip().splitlines() or [""])[-1]
    return f"its process ended with {child.returncode}: {last}"


def compile_ahead(jobs: Sequence[tuple[Call, Backend]]) -> None:
    """Have the binaries of Triton's candidates compiled side by side, which is most of what a first trial takes."""
    if not torch.cuda.is_available():
        return
    from triton import AsyncCompileMode

    def warm(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], meta: dict[str, Any]) -> None:
        kernel.warmup(*args, grid=grid, **meta)

    start, launch.start = launch.start, warm
    try:
        with ThreadPoolExecutor() as workers, AsyncCompileMode(workers, ignore_errors=True):
            for call, backend in jobs:
                if backend == "triton":
                    with contextlib.suppress(Exception):  # which the trial will find again
                        call.step(backend)
    finally:
        launch.start = start


def main(folder: str, first: str) -> int:
    from ..verification import oracle as oracle  # before the time of the first job begins

    # What this user's own process has just written.
    written = torch.load(Path(folder) / "jobs", weights_only=False)
    jobs = [(Call(op, arguments, Modes(*modes)), backend) for op, arguments, modes, backend in written]
    compile_ahead(jobs[int(first) :])
    if torch.cuda.is_available() and (reason := lost("cuda")):  # as where the GPU is one process's alone
        raise SystemExit(reason)
    (Path(folder) / "began").touch()
    for i, job in enumerate(jobs):
        if i >= int(first):
            _write(Path(folder), i, judged(*job))
            if torch.cuda.is_available() and lost("cuda"):
                break  # what follows would fail as well, and is no candidate's fault: the next process takes it up
    return 0
