"""``python -m bench.contact OP``: the first launches of every kernel body of an op, in every dtype, against float64.

Cases are taken in turn until every body has run. A row per case goes to the session's file before it starts and after
it ends, so that a hang has a name. ``--ceilings`` measures what the device reaches instead.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pyramid_kernels.benchmark import timing
from pyramid_kernels.ops import all_ops
from pyramid_kernels.verification import oracle
from tests.kernels import DEVICE, DTYPES, HALF, backends, cases, cuda_kernels, short

from .session_rows import add

DTYPE_NAMES = tuple(map(short, DTYPES))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.contact", description="First launches on a new GPU.")
    parser.add_argument("op", nargs="?", choices=list(all_ops()))
    parser.add_argument("--ceilings", action="store_true", help="copy bandwidth and matrix rate")
    parser.add_argument("--backend", choices=("cuda", "triton"), default="cuda")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPE_NAMES, default=DTYPE_NAMES)
    args = parser.parse_args(argv)
    dtypes = [getattr(torch, name) for name in args.dtypes]
    if args.ceilings:
        return ceilings(dtypes)
    if args.backend not in backends(args.op):
        parser.error(f"{args.op} has no {args.backend} backend")
    return contact(args.op, args.backend, dtypes)


def ceilings(dtypes: list[torch.dtype]) -> int:
    for dtype in dtypes:
        found = timing.floors(DEVICE, dtype)
        row = {"dtype": short(dtype), "copy_gb_s": round(found.copy / 1e9, 1), "tflop_s": round(found.matmul / 1e12, 3)}
        add(stage="ceilings", **row)
        print(row, flush=True)
    return 0


def contact(op: str, backend: str, dtypes: list[torch.dtype]) -> int:
    """0 if all passed, 1 if a case failed, 3 if the GPU's context was lost, after which nothing can run here."""
    failed = 0
    for dtype in dtypes:
        seen: set[str] = set()
        for case, channels_last, bodies in candidates(op, backend, dtype):
            if bodies <= seen:
                continue
            what = {"stage": "kernels", "op": op, "backend": backend, "case": case.id, "dtype": short(dtype)}
            what["layout"] = "channels_last" if channels_last else "contiguous"
            add(**what, result="started")
            start = time.monotonic()
            row, launched = checked(op, case, backend, dtype, channels_last)
            seen |= launched
            failed |= bool(row["failures"])
            add(**what, **row, seconds=round(time.monotonic() - start, 2))
            print(case.id, short(dtype), what["layout"], row, flush=True)
            if row["result"] == "context lost":
                return 3
    return failed


def candidates(op: str, backend: str, dtype: torch.dtype) -> Iterator[tuple[Any, bool, set[str]]]:
    """(case, channels_last, the kernel bodies that it may launch) of every case that the backend can run."""
    hopper = {name for names in cuda_kernels().values() for name in names if name.endswith("_sm90_kernel")}
    for case in cases(op):
        for channels_last in (True, False):
            if oracle.cannot_check(op, case, backend, dtype, channels_last, DEVICE) is None:
                bodies: set[str] = set().union(*oracle.spec(op).launches(case, channels_last, backend))
                twins = {name.replace("_kernel", "_sm90_kernel") for name in bodies} if dtype in HALF else set()
                yield case, channels_last, bodies | (twins & hopper if backend == "cuda" else set())


def checked(
    op: str, case: Any, backend: str, dtype: torch.dtype, channels_last: bool
) -> tuple[dict[str, Any], set[str]]:
    """The row of one check, and the bodies launched."""
    try:
        report = oracle.check(op, case, backend, dtype, channels_last, device=DEVICE)
        failures, launched = report.failures(), set(report.run.forward) | set(report.run.backward)
        worst = round(report.worst, 3)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
    except Exception as error:  # whatever a launch throws is this case's result
        failures, launched, worst = [f"{type(error).__name__}: {str(error).strip()[:500]}"], set[str](), None
    row = {"result": "failed" if failures else "passed", "error_over_limit": worst, "launched": sorted(launched)}
    if failures and context_lost():
        row["result"] = "context lost"
    return row | {"failures": failures}, launched


def context_lost() -> bool:
    """Whether an error stays: after an illegal access every later call of the process reports it."""
    try:
        if DEVICE == "cuda":
            torch.cuda.synchronize()
            torch.zeros(1, device=DEVICE).cpu()
    except RuntimeError:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
