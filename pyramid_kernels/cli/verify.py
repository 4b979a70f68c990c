"""``verify``: every op on every backend against its float64 reference; on a GPU, what passed is recorded for "auto"."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from .. import _native
from ..backends import BACKENDS, KERNELS
from ..console import (
    Lines,
    UsageError,
    add_json,
    add_row,
    backend_name,
    check_file,
    gpu_facts,
    interpret_without_gpu,
    op_name,
    progress,
    say,
)
from ..ops import all_ops
from ..verification import ledger
from ..verification.rows import DTYPES, HEADER, LAYOUTS, Job, Row, chosen, jobs_of, lost, printed, reason, row_of

NAMES = [str(dtype).removeprefix("torch.") for dtype in DTYPES]
#: Seconds that one op on one backend may take.
LIMIT = 1800.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--op", type=op_name, nargs="+", help="only these ops")
    parser.add_argument("--backend", type=backend_name, help="only this backend")
    parser.add_argument("--dtype", choices=NAMES, nargs="+", help="only these dtypes")
    add_json(parser)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)  # rows that continue another's table


def run(args: argparse.Namespace) -> int:
    if args.json:
        check_file("--json", args.json)
    device = interpret_without_gpu()
    ops = [all_ops()[name] for name in args.op or all_ops()]
    jobs = [job for op in ops for job in jobs_of(op, [args.backend] if args.backend else None)]
    jobs = [job for job in jobs if args.dtype is None or job.names[2] in args.dtype]
    if device == "cuda":
        ledger.record("verified")  # where nothing can be written, say so before the work
    pairs = list(dict.fromkeys((job.op.name, job.backend) for job in jobs))
    several = device == "cuda" and len(pairs) > 1 and next(chosen(jobs, device), None) is not None
    failed = _apart(pairs, args) if several else _check_all(jobs, device, args.json, args.bare)
    if args.bare:
        return int(bool(failed))
    if failed is None:
        reasons = {why for op in ops if (why := reason(op, args.backend, device))}
        raise UsageError(f"backend {args.backend!r} can run nothing here: {'; '.join(sorted(reasons))}")
    if device == "cpu":
        others = ", CUDA kernels in the simulator" if _native.simulated() else ""
        print(f"\nNo GPU: Triton kernels run in its interpreter, which has no bfloat16{others}; nothing is recorded.")
    else:
        print(f"\nRecorded in {ledger.user_file()}.")
    return int(failed)


def _apart(pairs: list[tuple[str, str]], args: argparse.Namespace) -> bool:
    """Each op and backend in a process of its own, which an error that stays, or a kernel that hangs, ends alone."""
    failed = False
    _lines().head()
    for op, backend in progress(pairs, "verify", " ".join):
        command = [sys.executable, "-m", "pyramid_kernels", "verify", "--bare", "--op", op, "--backend", backend]
        command += ["--dtype", *args.dtype] if args.dtype else []
        command += ["--json", str(args.json)] if args.json else []
        try:
            code = process(command)
        except subprocess.TimeoutExpired:
            say(f"{op} {backend}: it did not end within {LIMIT / 60:.0f} minutes", sys.stderr)
            code = 1
        if code not in (0, 1):
            say(f"{op} {backend}: its process ended with {code}", sys.stderr)
        failed |= code != 0
    return failed


def process(command: list[str]) -> int:
    return subprocess.run(command, timeout=LIMIT).returncode


def _lines() -> Lines:
    return Lines(dict(zip(HEADER, (all_ops(), BACKENDS, NAMES, LAYOUTS, (), (), ()), strict=True)))


def _check_all(jobs: list[Job], device: str, file: Path | None, bare: bool) -> bool | None:
    """Print every row as it comes, on a GPU record it, and tell whether one failed; None if there was none."""
    failed = None
    lines = _lines()
    lines.begun = bare
    facts = gpu_facts() if device == "cuda" else {}
    for job, cases in chosen(progress(jobs, "verify"), device):
        _record(job, facts, "did not finish")  # what stands there if the process ends in a kernel
        row = row_of(job, cases, device)
        failed = bool(failed or row.failures)
        lines.row(printed(row))
        add_row(file, row._asdict())
        for failure in row.failures:
            say(f"{job} {failure}", sys.stderr)
        _record(job, facts, "failed" if row.failures else "passed", row)
        if gone := lost(device):
            rest = list(dict.fromkeys(j.op.name for j in jobs[jobs.index(job) :] if j.op is not job.op))
            then = f"; check the rest in another: {ledger.COMMAND} verify --op {' '.join(rest)}" if rest else ""
            say(f"stopped, for the GPU answers nothing more in this process ({gone}){then}", sys.stderr)
            break
    return failed


def _record(job: Job, facts: dict[str, Any], result: str, row: Row | None = None) -> None:
    """Write to the user's ledger what a kernel body did on this GPU."""
    if not facts or job.backend not in KERNELS:
        return
    op, backend, dtype, layout = job.names
    ran = f"{row.cases} cases, {row.launches} launches, error/limit {row.error:.2f}" if row else "nothing yet"
    entry = {"op": op, "backend": backend, "dtype": dtype, "layout": layout, **facts}
    ledger.record("verified", {**entry, "ran": f"{dtype}, {layout}: {ran}", "result": result})
