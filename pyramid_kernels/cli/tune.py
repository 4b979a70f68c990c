"""``tune``: every kernel body's time against the unfused chain on this GPU; "auto" takes none that is slower."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from ..backends import KERNELS
from ..benchmark import subjects, timing
from ..console import Lines, UsageError, add_json, add_row, check_file, gpu_facts, op_name, progress
from ..ops import all_ops
from ..verification import ledger

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
USUAL = ("float32", "float16", "bfloat16")
LAYOUTS = ("contiguous", "channels_last")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--op", type=op_name, nargs="+", help="only these ops")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", help=f"these dtypes (default: {', '.join(USUAL)})")
    parser.add_argument("--layout", choices=LAYOUTS, nargs="+", help="only these layouts (default: both)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    if args.json:
        check_file("--json", args.json)
    if not torch.cuda.is_available():
        raise UsageError("tune measures kernels on a GPU, and PyTorch sees none here; on a CPU nothing is tuned")
    ledger.record("ratios")  # where nothing can be written, say so before the work
    torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 0
    texts = {"op": all_ops(), "backend": KERNELS, "dtype": DTYPES, "layout": LAYOUTS, "unfused / ours": ()}
    lines, facts = Lines({**texts, "slowest on": [""]}), gpu_facts()
    names, dtypes, layouts = args.op or all_ops(), args.dtype or USUAL, args.layout or LAYOUTS
    for op, dtype, layout in progress([(o, d, k) for o in names for d in dtypes for k in layouts], "tune", " ".join):
        for backend, (ratio, work) in slowest(op, DTYPES[dtype], layout == "channels_last").items():
            body = {"op": op, "backend": backend, "dtype": dtype, "layout": layout}
            lines.row([*body.values(), f"{ratio:.2f}", work])
            add_row(args.json, {**body, "ratio": ratio, "slowest on": work})
            ledger.record("ratios", {**body, **facts, "ratio": ratio})
    print(f"\nRecorded in {ledger.user_file()}.")
    return 0


def slowest(op: str, dtype: torch.dtype, channels_last: bool) -> dict[str, tuple[float, str]]:
    """Per kernel backend the smallest ratio over the op's BENCH cases, forward and training, and where."""
    worst: dict[str, tuple[float, str]] = {}
    for subject in subjects.subjects(op, "cuda", dtype, channels_last=channels_last, compiled=False):
        calls: dict[str, Any] = {k: v for k, v in subject.calls.items() if k in (*KERNELS, subjects.EAGER)}
        times = timing.interleaved(calls, "cuda", rounds=50, budget=10.0, cold=True)
        for backend in calls.keys() & set(KERNELS):
            ratio = timing.paired_ratio(times[subjects.EAGER], times[backend])
            worst[backend] = min(worst.get(backend, (ratio, subject.name)), (ratio, subject.name))
    return worst
