"""``python -m bench.run``: check, time, print and append rows; nothing is reported where a check is red."""

from __future__ import annotations

import argparse
import csv
import datetime
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from pyramid_kernels import models, testing
from pyramid_kernels.backends import KERNELS
from pyramid_kernels.cli.common import UsageError, commit, driver, table, unknown
from pyramid_kernels.cli.verify import verify
from pyramid_kernels.ops import all_ops
from pyramid_kernels.progress import progress

from . import networks, timing
from .subjects import EAGER, MODES, Subject, case_names, modes_of, op_names, subjects

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SHOWN = ("op", "case", "mode", "provider", "path", "median_ms", "p20_ms", "p80_ms", "peak_mb", "vs_eager")
COLUMNS = (
    "date", "commit", "torch", "cuda", "driver", "device", "threads", "op", "case", "dtype", "layout", "mode",
    "provider", "path", "median_ms", "p20_ms", "p80_ms", "warm_ms", "wall_ms", "graph_ms", "cpu_us", "launches",
    "gb_s", "useful_tflop_s", "dense_tflop_s", "floor_share", "peak_mb", "vs_eager",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--op", help="only this op or module")
    parser.add_argument("--model", help="instead, frames per second of this network of pyramid_kernels.models, or all")
    parser.add_argument("--mode", choices=MODES, help="only the forward, or only forward and backward")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the GPU if there is one")
    parser.add_argument("--dtype", choices=DTYPES, help="default: bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--layout", choices=("channels_last", "contiguous"), default="channels_last")
    parser.add_argument("--quick", action="store_true", help="one image per case and fewer samples")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, help="folder of the CSV (default: bench/results in a source tree)")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description="Time the ops and modules.")
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except UsageError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace) -> int:
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch sees no GPU here; use --device cpu")
    if args.op and args.op not in op_names():
        raise UsageError(unknown("op", args.op, op_names()))
    dtype = DTYPES[args.dtype or ("float32" if device == "cpu" else "bfloat16")]
    torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 0
    if args.model:
        names = list(models.networks()) if args.model == "all" else [args.model]
        return networks.measure(names, device, dtype, args.layout == "channels_last")
    target = (args.out or results_folder()) / f"{device_slug(device)}.csv"
    red = False
    for name in [args.op] if args.op else op_names():
        found = failures(name, device)
        if found:
            red = True
            print(f"{name}: a check is red, so nothing is reported: {found[0]}", file=sys.stderr)
            continue
        rows = list(measure(name, device, dtype, args))
        append(target, rows)
        print(table(SHOWN, [[row[key] for key in SHOWN] for row in rows]), flush=True)
    print(f"\nRows are in {target}.")
    return int(red)


def failures(name: str, device: str) -> list[str]:
    """What the op's checks on the backends to be timed say is wrong; for a module, its outputs against float64."""
    if name in all_ops():
        rows = verify(all_ops()[name], ("composed", *(KERNELS if device != "cpu" else ())))
        return [f"{row.backend} {row.dtype} {text}" for row in rows for text in row.failures]
    return [text for subject in subjects(name, device, torch.float32, quick=True, compiled=False)
            for text in _module_failures(subject)]  # fmt: skip


def _module_failures(subject: Subject) -> Iterator[str]:
    with torch.no_grad():
        ours, unfused, exact = (subject.outputs[key]() for key in ("auto", EAGER, "exact"))
    ratio = testing.error_ratio(ours, unfused, exact)
    if not ratio <= 1:
        yield f"{subject.name}: error over limit {ratio:.3g}"


def measure(name: str, device: str, dtype: torch.dtype, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    modes = [mode for mode in modes_of(name) if args.mode in (None, mode)]
    work = [(case, mode) for case in case_names(name, args.quick) for mode in modes]
    for case, mode in progress(work, "bench", "/".join):
        # Compiled callables share their code, and with it one limit on recompilations.
        torch.compiler.reset()
        (subject,) = subjects(
            name, device, dtype, modes=(mode,), quick=args.quick, compiled=not args.no_compile,
            channels_last=args.layout == "channels_last", only=case,
        )  # fmt: skip
        yield from rows_of(subject, device, args.layout, quick=args.quick)


def rows_of(subject: Subject, device: str, layout: str, quick: bool) -> Iterator[dict[str, Any]]:
    """One row per provider."""
    rounds, budget = (20, 8.0) if quick else (60, 20.0)
    times = timing.interleaved(subject.calls, device, rounds, budget, cold=device != "cpu")
    warm = timing.interleaved(subject.calls, device, rounds, budget) if device != "cpu" else {}
    for provider, call in subject.calls.items():
        stats = timing.Stats.of(times[provider])
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
        row |= _environment(device) | {"op": subject.op, "case": subject.case, "mode": subject.mode}
        row |= {"dtype": str(subject.dtype).removeprefix("torch."), "layout": layout}
        row |= {"provider": provider, "path": subject.paths[provider]}
        row |= {f"{key}_ms": _ms(value) for key, value in stats._asdict().items()}
        row["peak_mb"] = f"{timing.peak_memory(call, device) / 1e6:.1f}"
        if device != "cpu":
            row |= _on_gpu(call, warm[provider])
        row |= _rates(subject, stats.median, device)
        ratio = timing.paired_ratio(times[EAGER], times[provider])
        row["vs_eager"] = "same path" if subject.same_path(provider) else f"{ratio:.2f}"
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


def _environment(device: str) -> dict[str, Any]:
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "driver": driver() if device != "cpu" else "",
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }


def device_name(device: str) -> str:
    if device != "cpu":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else None
    return model[1].strip() if model else platform.processor() or platform.machine()


def device_slug(device: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    return f"cpu-{slug}" if device == "cpu" else slug


def results_folder() -> Path:
    """``bench/results`` in a source tree; beside an installed package nothing is written, but in the working folder."""
    here = Path(__file__).parent / "results"
    return here if here.is_dir() else Path("bench-results")


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    raise SystemExit(main())
