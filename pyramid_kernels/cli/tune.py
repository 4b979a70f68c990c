"""``tune``: every kernel body's time against the unfused chain on this GPU; "auto" takes none that is slower."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from .. import ledger
from ..backends import KERNELS
from ..ops import all_ops
from ..progress import progress
from .common import UsageError, bench_module, op_name, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--op", type=op_name, help="only this op")


def run(args: argparse.Namespace) -> int:
    if not torch.cuda.is_available():
        raise UsageError("tune measures kernels on a GPU, and PyTorch sees none here; on a CPU nothing is tuned")
    torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 0
    major, minor = torch.cuda.get_device_capability()
    rows = []
    for name in progress([args.op] if args.op else list(all_ops()), "tune"):
        for backend, (ratio, work) in slowest(name).items():
            rows.append([name, backend, work, f"{ratio:.2f}"])
            ledger.record("ratios", {"op": name, "backend": backend, "arch": 10 * major + minor, "ratio": ratio})
    print(table(["op", "backend", "slowest on", "unfused / ours"], rows))
    print(f"\nRecorded in {ledger.user_file()}.")
    return 0


def slowest(op: str) -> dict[str, tuple[float, str]]:
    """Per kernel backend the smallest ratio over the op's BENCH cases, forward and training, bfloat16, and where."""
    subjects, timing = bench_module("subjects"), bench_module("timing")
    worst: dict[str, tuple[float, str]] = {}
    for subject in subjects.subjects(op, "cuda", torch.bfloat16, compiled=False):
        calls: dict[str, Any] = {k: v for k, v in subject.calls.items() if k in (*KERNELS, subjects.EAGER)}
        times = timing.interleaved(calls, "cuda", rounds=50, budget=10.0, cold=True)
        for backend in calls.keys() & set(KERNELS):
            ratio = timing.paired_ratio(times[subjects.EAGER], times[backend])
            worst[backend] = min(worst.get(backend, (ratio, subject.name)), (ratio, subject.name))
    return worst
