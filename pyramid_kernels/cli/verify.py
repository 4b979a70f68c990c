"""``verify``: every op on every backend against its float64 reference; on a GPU, what passed is recorded for "auto"."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from .. import _native, ledger
from ..backends import BACKENDS, KERNELS, Op
from ..ops import all_ops
from ..progress import progress
from .common import Lines, UsageError, backend_name, gpu_facts, interpret_without_gpu, op_name, say

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LAYOUTS = ("contiguous", "channels_last")
HEADER = ("op", "backend", "dtype", "layout", "cases", "launches", "error/limit")


class Row(NamedTuple):
    """One op, backend, dtype and layout: cases run, kernels launched, and the worst error over its limit."""

    op: str
    backend: str
    dtype: str
    layout: str
    cases: int
    launches: int
    error: float
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    op: Op
    backend: str
    dtype: torch.dtype
    channels_last: bool

    def __str__(self) -> str:
        return " ".join(self.names)

    @property
    def names(self) -> tuple[str, str, str, str]:
        body = ledger.body_of(self.dtype, self.channels_last)
        return self.op.name, self.backend, body["dtype"], body["layout"]

    def settings(self, case: Any, device: str) -> dict[str, Any]:
        """The arguments of ``oracle.check``."""
        own = {"op": self.op.name, "backend": self.backend, "dtype": self.dtype, "channels_last": self.channels_last}
        return {**own, "case": case, "device": device}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--op", type=op_name, nargs="+", help="only these ops")
    parser.add_argument("--backend", type=backend_name, help="only this backend")


def run(args: argparse.Namespace) -> int:
    device = interpret_without_gpu()
    ops = [all_ops()[name] for name in args.op or all_ops()]
    jobs = [job for op in ops for job in _jobs(op, [args.backend] if args.backend else None)]
    if device == "cuda":
        ledger.record("verified")  # where nothing can be written, say so before the work
    failed = _check_all(jobs, device)
    if failed is None:
        reasons = {reason for op in ops if (reason := _reason(op, args.backend, device))}
        raise UsageError(f"backend {args.backend!r} can run nothing here: {'; '.join(sorted(reasons))}")
    if device == "cpu":
        others = ", CUDA kernels in the simulator" if _native.simulated() else ""
        print(f"\nNo GPU: Triton kernels run in its interpreter, which has no bfloat16{others}; nothing is recorded.")
    else:
        print(f"\nRecorded in {ledger.user_file()}.")
    return int(failed)


def verify(op: Op, backends: Iterable[str] | None = None, cases: int | None = None) -> list[Row]:
    """The rows of one op: these backends (default: all but the reference), its first ``cases`` cases (default: all)."""
    device = interpret_without_gpu()
    return [_row(job, chosen, device) for job, chosen in _chosen(_jobs(op, backends), device, cases)]


def _jobs(op: Op, backends: Iterable[str] | None) -> list[Job]:
    backends = backends or ("composed", *KERNELS)
    return [Job(op, b, dtype, last) for b in backends for dtype in DTYPES for last in (False, True)]


def _chosen(jobs: Iterable[Job], device: str, cases: int | None = None) -> Iterator[tuple[Job, list[Any]]]:
    """Jobs with the cases they can run: in both layouts on a GPU, in turns on a CPU, where a kernel takes seconds."""
    from .. import oracle

    for job in jobs:
        every = enumerate(oracle.spec(job.op.name).CASES[:cases])
        mine = [case for i, case in every if device == "cuda" or (i % 2 == 1) == job.channels_last]
        if able := [case for case in mine if oracle.cannot_check(**job.settings(case, device)) is None]:
            yield job, able


def _check_all(jobs: list[Job], device: str) -> bool | None:
    """Print every row as it comes, on a GPU record it, and tell whether one failed; None if there was none."""
    failed = None
    texts = (all_ops(), BACKENDS, [str(dtype).removeprefix("torch.") for dtype in DTYPES], LAYOUTS, (), (), ())
    lines = Lines(dict(zip(HEADER, texts, strict=True)))
    facts = gpu_facts() if device == "cuda" else {}
    for job, cases in _chosen(progress(jobs, "verify"), device):
        _record(job, facts, "did not finish")  # what stands there if the process ends in a kernel
        row = _row(job, cases, device)
        failed = bool(failed or row.failures)
        lines.row(printed(row))
        for failure in row.failures:
            say(f"{job} {failure}", sys.stderr)
        _record(job, facts, "failed" if row.failures else "passed", row)
        if lost := _lost(device):
            rest = list(dict.fromkeys(j.op.name for j in jobs[jobs.index(job) :] if j.op is not job.op))
            then = f"; check the rest in another: {ledger.COMMAND} verify --op {' '.join(rest)}" if rest else ""
            say(f"stopped, for the GPU answers nothing more in this process ({lost}){then}", sys.stderr)
            break
    return failed


def _row(job: Job, cases: list[Any], device: str) -> Row:
    from .. import oracle

    reports, failures = [], []
    for case in cases:
        try:
            report = oracle.check(**job.settings(case, device))
        except Exception as error:  # whatever a compiler or a driver throws is this body's result
            failures.append(f"{case.id}: {type(error).__name__}: {_first_line(error)}")
            if _lost(device):
                break
            continue
        reports.append(report)
        failures += [f"{case.id}: {text}" for text in report.failures()]
    worst = max((r.worst for r in reports), default=0.0)
    launches = sum(r.launches for r in reports)
    if reports and job.backend in KERNELS and not launches:
        failures.append("no kernel was launched")
    return Row(*job.names, len(cases), launches, worst, tuple(failures))


def _lost(device: str) -> str | None:
    """What the GPU says since an error that every later call repeats, such as an illegal access; None if it is well."""
    try:
        if device == "cuda":
            torch.cuda.synchronize()
    except RuntimeError as error:
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    """The line that tells: a driver's first, a compiler's last."""
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if lines[0].startswith("CUDA") else lines[-1]


def _reason(op: Op, backend: str, device: str) -> str | None:
    from .. import oracle

    return oracle.cannot_check(op.name, oracle.spec(op.name).CASES[0], backend, torch.float32, True, device)


def printed(row: Row) -> list[Any]:
    """The cells of a table."""
    return [*row[:5], row.launches if row.backend in KERNELS else "-", f"{row.error:.2f}"]


def _record(job: Job, facts: dict[str, Any], result: str, row: Row | None = None) -> None:
    """Write to the user's ledger what a kernel body did on this GPU."""
    if not facts or job.backend not in KERNELS:
        return
    op, backend, dtype, layout = job.names
    ran = f"{row.cases} cases, {row.launches} launches, error/limit {row.error:.2f}" if row else "nothing yet"
    entry = {"op": op, "backend": backend, "dtype": dtype, "layout": layout, **facts}
    ledger.record("verified", {**entry, "ran": f"{dtype}, {layout}: {ran}", "result": result})
