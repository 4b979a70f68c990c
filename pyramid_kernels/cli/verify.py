"""``verify``: every op on every backend against its float64 reference; on a GPU, what passed is recorded for "auto"."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .. import _native
from ..backends import BACKENDS, KERNELS
from ..console import Lines, UsageError, backend_name, gpu_facts, interpret_without_gpu, op_name, progress, say
from ..ops import all_ops
from ..verification import ledger
from ..verification.rows import DTYPES, HEADER, LAYOUTS, Job, Row, chosen, jobs_of, lost, printed, reason, row_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--op", type=op_name, nargs="+", help="only these ops")
    parser.add_argument("--backend", type=backend_name, help="only this backend")


def run(args: argparse.Namespace) -> int:
    device = interpret_without_gpu()
    ops = [all_ops()[name] for name in args.op or all_ops()]
    jobs = [job for op in ops for job in jobs_of(op, [args.backend] if args.backend else None)]
    if device == "cuda":
        ledger.record("verified")  # where nothing can be written, say so before the work
    failed = _check_all(jobs, device)
    if failed is None:
        reasons = {why for op in ops if (why := reason(op, args.backend, device))}
        raise UsageError(f"backend {args.backend!r} can run nothing here: {'; '.join(sorted(reasons))}")
    if device == "cpu":
        others = ", CUDA kernels in the simulator" if _native.simulated() else ""
        print(f"\nNo GPU: Triton kernels run in its interpreter, which has no bfloat16{others}; nothing is recorded.")
    else:
        print(f"\nRecorded in {ledger.user_file()}.")
    return int(failed)


def _check_all(jobs: list[Job], device: str) -> bool | None:
    """Print every row as it comes, on a GPU record it, and tell whether one failed; None if there was none."""
    failed = None
    texts = (all_ops(), BACKENDS, [str(dtype).removeprefix("torch.") for dtype in DTYPES], LAYOUTS, (), (), ())
    lines = Lines(dict(zip(HEADER, texts, strict=True)))
    facts = gpu_facts() if device == "cuda" else {}
    for job, cases in chosen(progress(jobs, "verify"), device):
        _record(job, facts, "did not finish")  # what stands there if the process ends in a kernel
        row = row_of(job, cases, device)
        failed = bool(failed or row.failures)
        lines.row(printed(row))
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
