"""``bench``: check, time, print rows and, with ``--out``, keep them; none where a check is red."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_leaves

from .. import models
from ..backends import KERNELS
from ..console import UsageError, progress, say, table, unknown
from ..fuse.check import difference
from ..ops import all_ops
from ..verification.rows import verify
from . import networks, timing
from .rows import device_slug, environment, keep, recordable
from .subjects import COMPILE, EAGER, MODES, Subject, op_names, subjects, work

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SHOWN = ("op", "case", "mode", "provider", "path", "median_ms", "p20_ms", "p80_ms", "peak_mb", "vs_eager")
HEADER = (*SHOWN[:5], "median ms", "p20 ms", "p80 ms", "peak MB", "eager / this")
COLUMNS = (
    "date", "commit", "torch", "cuda", "driver", "device", "threads", "op", "case", "dtype", "layout", "mode",
    "provider", "path", "median_ms", "p20_ms", "p80_ms", "warm_ms", "wall_ms", "graph_ms", "cpu_us", "launches",
    "gb_s", "useful_tflop_s", "dense_tflop_s", "floor_share", "peak_mb", "vs_eager", "quick",
)  # fmt: skip
#: Of label maps, the share that may differ: sums of another order decide where two classes are equal but for rounding.
LABELS = 1e-3


class Effort(NamedTuple):
    """Of every (case, mode): at most so many rounds in about so many seconds, but at least so many."""

    rounds: int = 60
    seconds: float = 20.0
    least: int = 3


QUICK = Effort(20, 0.5, 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--op", action="append", help="only this op or module; may be given again")
    parser.add_argument("--model", help="instead, frames per second of this network of pyramid_kernels.models, or all")
    parser.add_argument("--mode", choices=MODES, help="only the forward, or only forward and backward")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the GPU if there is one")
    parser.add_argument("--dtype", choices=DTYPES, help="default: bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--layout", choices=("channels_last", "contiguous"), default="channels_last")
    parser.add_argument("--quick", action="store_true",
                        help="the smallest case of each, few samples, no torch.compile, no verification: a first look, "
                             "in rows that no table is made of")  # fmt: skip
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--no-verify", action="store_true", help="time ops that have been verified apart")
    parser.add_argument("--keep-memory", action="store_true", help="let the C library keep what is freed")
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="add the rows to a CSV in this folder; without it nothing is written")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    check(args, device)
    if args.keep_memory:
        timing.keep_freed_memory()
    dtype = DTYPES[args.dtype or ("float32" if device == "cpu" else "bfloat16")]
    torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 0
    if args.model:
        names = list(models.networks()) if args.model == "all" else [args.model]
        target = args.out and args.out / f"networks-{device_slug(device)}.csv"
        return networks.measure(names, device, dtype, args.layout == "channels_last", args.quick, target)
    modes = (args.mode,) if args.mode else MODES
    jobs = [(name, *key) for name in args.op or op_names() for key in work(name, device, args.quick, modes)]
    red: dict[str, str] = {}
    for name, mine in groupby(progress(jobs, "bench", "/".join), key=lambda job: job[0]):
        reasons = [] if args.quick or args.no_verify or name not in all_ops() else failures(name, device)
        rows: list[dict[str, Any]] = []
        for found in [] if reasons else [rows_or_reason(*job, device, dtype, args) for job in mine]:
            rows += found if isinstance(found, list) else []
            reasons += [found] if isinstance(found, str) else []
        if rows:
            say(table(HEADER, [[row[key] for key in SHOWN] for row in rows]) + "\n")
        if reasons:
            red[name] = reasons[0]
    for name, reason in red.items():
        print(f"{name}: a check is red, so nothing is reported: {reason}", file=sys.stderr)
    print("eager / this: above 1 the provider is faster than eager. auto is what runs by itself, the rest is forced.")
    print(f"Rows are in {args.out}." if args.out else "Nothing is written without --out.")
    return int(bool(red))


def check(args: argparse.Namespace, device: str) -> None:
    """Refuse what cannot be done, before anything is measured."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch sees no GPU here; use --device cpu")
    for name in args.op or ():
        if name not in op_names():
            raise UsageError(unknown("op", name, op_names()))
    if args.model and args.op:
        raise UsageError("--op beside --model: a network is timed whole; give one of the two")
    if args.model and args.mode == "training":
        raise UsageError("--mode training beside --model: networks are timed in evaluation; leave --mode out")
    if args.out:
        recordable(args.out)


def failures(name: str, device: str) -> list[str]:
    """What the op's verification on the backends to be timed says is wrong."""
    rows = verify(all_ops()[name], ("composed", *(KERNELS if device != "cpu" else ())))
    return [f"{row.backend} {row.dtype} {text}" for row in rows for text in row.failures]


def rows_or_reason(
    name: str, case: str, mode: str, device: str, dtype: torch.dtype, args: argparse.Namespace
) -> list[dict[str, Any]] | str:
    """The rows of one (case, mode), kept where ``--out`` says; or why there are none."""
    # Compiled callables share their code, and with it one limit on recompilations.
    torch.compiler.reset()
    try:
        (subject,) = subjects(
            name, device, dtype, modes=(mode,), quick=args.quick, compiled=not (args.no_compile or args.quick),
            channels_last=args.layout == "channels_last", only=case,
        )  # fmt: skip
        if args.quick and subject.paths["auto"] != "composed":
            subject.calls.pop("composed", None)
        reason = wrong(subject)
        rows = [] if reason else list(rows_of(subject, device, args.layout, args.quick))
    except Exception as error:  # whatever a kernel, a compiler or a driver throws is this row's result
        reason = f"{name}/{case}/{mode}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    if reason:
        return reason
    if args.out:
        keep(args.out / f"{device_slug(device)}.csv", rows, COLUMNS)
    return rows


@torch.no_grad()
def wrong(subject: Subject) -> str | None:
    """How a provider's result differs from eager's; None if all agree."""
    expected = subject.forwards[EAGER]()
    ours = [provider for provider in subject.forwards if provider in subject.calls.keys() - {EAGER, COMPILE}]
    reasons = {provider: disagreement(expected, subject.forwards[provider]()) for provider in ours}
    return next((f"{subject.name}, {provider}: {reason}" for provider, reason in reasons.items() if reason), None)


def disagreement(expected: Any, got: Any) -> str | None:
    """How two results differ by more than rounding and another order of sums explain; None if they do not."""
    for a, b in zip(tree_leaves(expected), tree_leaves(got), strict=True):
        if not a.is_floating_point() and a.shape == b.shape and (share := (a != b).double().mean().item()) > LABELS:
            return f"{share:.2%} of the labels differ"
    return difference(expected, got)


def rows_of(subject: Subject, device: str, layout: str, quick: bool = False) -> Iterator[dict[str, Any]]:
    """One row per provider."""
    rounds, seconds, least = QUICK if quick else Effort()
    times = timing.interleaved(subject.calls, device, rounds, seconds, device != "cpu", least)
    warm = timing.interleaved(subject.calls, device, rounds, seconds, False, least) if device != "cpu" else {}
    for provider, call in subject.calls.items():
        stats = timing.Stats.of(times[provider])
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
        row |= environment(device) | {"op": subject.op, "case": subject.case, "mode": subject.mode}
        row |= {"dtype": str(subject.dtype).removeprefix("torch."), "layout": layout, "quick": "yes" if quick else "no"}
        row |= {"provider": provider, "path": subject.paths[provider]}
        row |= {f"{key}_ms": _ms(value) for key, value in stats._asdict().items()}
        row["peak_mb"] = f"{timing.peak_memory(call, device) / 1e6:.1f}"
        if device != "cpu":
            row |= _on_gpu(call, warm[provider])
        row |= _rates(subject, stats.median, device)
        row["vs_eager"] = subject.ratio(provider, times)
        yield row


def _on_gpu(call: timing.Call, warm: list[float]) -> dict[str, Any]:
    return {
        "warm_ms": _ms(timing.Stats.of(warm).median),
        "wall_ms": _ms(timing.wall_time(call)),
        "graph_ms": _ms(timing.graph_time(call)),
        "cpu_us": f"{1e6 * timing.cpu_time(call):.1f}",
        "launches": timing.gpu_launches(call),
    }


def _rates(subject: Subject, seconds: float, device: str) -> dict[str, str]:
    if subject.cost is None:
        return {}
    cost, floor = subject.cost, timing.floors(device, subject.dtype)
    least = max(cost.floor_bytes / floor.copy, cost.useful / floor.matmul)
    return {
        "gb_s": f"{cost.floor_bytes / seconds / 1e9:.1f}",
        "useful_tflop_s": f"{cost.useful / seconds / 1e12:.3f}",
        "dense_tflop_s": f"{cost.total / seconds / 1e12:.3f}",
        "floor_share": f"{least / seconds:.2f}",
    }


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.4g}"
