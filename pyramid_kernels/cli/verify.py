"""``verify``: every op on every backend against its float64 reference; on a GPU, what passed is recorded for "auto"."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch

from .. import _native, ledger
from ..backends import KERNELS, Op
from ..ops import all_ops
from ..progress import progress
from .common import UsageError, backend_name, interpret_without_gpu, op_name, table, versions

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class Row(NamedTuple):
    """One op, backend and dtype: cases run, kernels launched, and the worst error over its limit."""

    op: str
    backend: str
    dtype: str
    cases: int
    launches: int
    error: float
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    op: Op
    backend: str
    dtype: torch.dtype
    cases: int | None = None

    def __str__(self) -> str:
        return f"{self.op.name} {self.backend} {_short(self.dtype)}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--op", type=op_name, help="only this op")
    parser.add_argument("--backend", type=backend_name, help="only this backend")


def run(args: argparse.Namespace) -> int:
    device = interpret_without_gpu()
    ops = [all_ops()[args.op]] if args.op else list(all_ops().values())
    jobs = [job for op in ops for job in _jobs(op, [args.backend] if args.backend else None)]
    rows: list[Row] = []
    for name, mine in groupby(_rows(progress(jobs, "verify"), device), key=lambda row: row.op):
        rows += mine
        if device == "cuda":  # op by op: what has passed stays, whatever happens to the next
            _record([row for row in rows if row.op == name])
    if not rows:
        reasons = {reason for op in ops if (reason := _reason(op, args.backend, device))}
        raise UsageError(f"backend {args.backend!r} can run nothing here: {'; '.join(sorted(reasons))}")
    print(table(["op", "backend", "dtype", "cases", "launches", "error/limit"], map(_printed, rows)))
    if device == "cpu":
        others = ", CUDA kernels in the simulator" if _native.simulated() else ""
        print(f"\nNo GPU: Triton kernels run in its interpreter, which has no bfloat16{others}; nothing is recorded.")
    else:
        print(f"\nRecorded in {ledger.user_file()}.")
    for row in rows:
        for failure in row.failures:
            print(f"{row.op} {row.backend} {row.dtype} {failure}", file=sys.stderr)
    return int(any(row.failures for row in rows))


def verify(op: Op, backends: Iterable[str] | None = None, cases: int | None = None) -> list[Row]:
    """The rows of one op: these backends (default: all but the reference), its first ``cases`` cases (default: all)."""
    return list(_rows(_jobs(op, backends, cases), interpret_without_gpu()))


def _jobs(op: Op, backends: Iterable[str] | None, cases: int | None = None) -> list[Job]:
    return [Job(op, b, dtype, cases) for b in backends or ("composed", *KERNELS) for dtype in DTYPES]


def _rows(jobs: Iterable[Job], device: str) -> Iterable[Row]:
    for job in jobs:
        row = _row(job, device)
        if row.cases or row.failures:
            yield row


def _row(job: Job, device: str) -> Row:
    """Both layouts of every case on a GPU; in turns on a CPU, where a kernel takes seconds."""
    from .. import oracle

    reports, failures = [], []
    settings: dict[str, Any]
    for i, case in enumerate(oracle.spec(job.op.name).CASES[: job.cases]):
        for channels_last in (False, True) if device == "cuda" else (i % 2 == 1,):
            settings = {"op": job.op.name, "case": case, "backend": job.backend, "dtype": job.dtype}
            settings |= {"channels_last": channels_last, "device": device}
            if oracle.cannot_check(**settings) is None:
                try:
                    report = oracle.check(**settings)
                except Exception as error:  # whatever a compiler or a driver throws is this body's result
                    failures.append(f"{case.id}: {type(error).__name__}: {str(error).strip().splitlines()[-1:]}")
                    continue
                reports.append(report)
                failures += [f"{case.id}: {text}" for text in report.failures()]
    worst = max((r.worst for r in reports), default=0.0)
    launches = sum(r.launches for r in reports)
    if reports and job.backend in KERNELS and not launches:
        failures.append("no kernel was launched")
    return Row(job.op.name, job.backend, _short(job.dtype), len(reports), launches, worst, tuple(failures))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _reason(op: Op, backend: str, device: str) -> str | None:
    from .. import oracle

    return oracle.cannot_check(op.name, oracle.spec(op.name).CASES[0], backend, torch.float32, True, device)


def _printed(row: Row) -> list[Any]:
    return [*row[:4], row.launches if row.backend in KERNELS else "-", f"{row.error:.2f}"]


def _record(rows: list[Row]) -> None:
    """Write to the user's ledger what each kernel body did on this GPU."""
    major, minor = torch.cuda.get_device_capability()
    for op, backend in dict.fromkeys((r.op, r.backend) for r in rows if r.backend in KERNELS):
        mine = [r for r in rows if (r.op, r.backend) == (op, backend)]
        ran = ", ".join(f"{r.dtype}: {r.cases} cases, {r.launches} launches, error/limit {r.error:.2f}" for r in mine)
        ledger.record(
            "verified",
            {
                "op": op,
                "backend": backend,
                "arch": 10 * major + minor,
                "gpu": torch.cuda.get_device_name(),
                **versions(),
                "ran": ran,
                "result": "failed" if any(r.failures for r in mine) else "passed",
            },
        )
