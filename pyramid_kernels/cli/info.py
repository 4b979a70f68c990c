"""``info``: versions, build, GPUs, and per op what each backend can do here."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from .. import _native, functional, ledger
from .._version import __version__
from ..backends import BACKENDS, Op, cannot, select
from ..ops import all_ops
from .common import installed, interpret_without_gpu, table

#: One memory-bound op and one built on matrix products, small enough for the interpreter.
CHECKED = ("pyramid_pool", "dilated_branches")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--check", action="store_true", help=f"run a small check of {' and '.join(CHECKED)} as well")


def run(args: argparse.Namespace) -> int:
    facts = {**environment(), "ops": {name: backends(op) for name, op in all_ops().items()}}
    if args.check:
        facts["check"] = check()
    print(json.dumps(facts, indent=1) if args.json else as_text(facts))
    return int(any(row["error"] > 1 for row in facts.get("check", [])))


def environment() -> dict[str, Any]:
    """Versions, build, GPUs and settings."""
    built = Path(__file__).parents[1] / "build_info.json"
    return {
        "pyramid_kernels": __version__,
        "build": json.loads(built.read_text()) if built.is_file() else "source tree",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": installed("triton"),
        "cuda": torch.version.cuda,
        "cuda core": _core(),
        "gpus": [_gpu(i) for i in range(torch.cuda.device_count())],
        "settings": {k: v for k, v in sorted(os.environ.items()) if k.startswith("PYRAMID_KERNELS_")},
        "ledger": {"shipped": str(ledger.SHIPPED), "user": str(ledger.user_file()), "verified": _verified()},
    }


def _core() -> str:
    found = _native.module("cuda")
    return found if isinstance(found, str) else f"compiled for {found.architectures}"


def _gpu(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    return f"{properties.name}, compute capability {properties.major}.{properties.minor}"


def _verified() -> int:
    return sum(entry["result"] == "passed" for entry in ledger.read()["verified"])


def backends(op: Op) -> dict[str, str]:
    """Per backend of ``op``: "available" or the reason it is not, for float32 here; and what "auto" takes."""
    from ..ops._shared.spec import materialise

    case = importlib.import_module(f"..ops.{op.name}.spec", __package__).CASES[0]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors = materialise(case, torch.float32, device, channels_last=True)
    _, problem, sizes = next(p for p in getattr(functional, op.name).problems(**tensors) if p[0] is op)
    found: dict[str, str] = {n: cannot(op, problem, n) or "available" for n in BACKENDS if n != "auto"}
    return {**found, "auto": f"takes {select(op, problem, sizes, 'auto')}"}


def check() -> list[dict[str, Any]]:
    """A small real check: rows of op, backend, dtype, launches and error over limit."""
    from .verify import verify

    interpret_without_gpu()
    return [row._asdict() for name in CHECKED for row in verify(all_ops()[name], cases=1)]


def as_text(facts: dict[str, Any]) -> str:
    lines = [f"{key:16}{_plain(facts[key])}" for key in facts if key not in ("ops", "check")]
    columns = [name for name in BACKENDS if name != "auto"]
    rows = [[op, found["auto"], *(_mark(found[c]) for c in columns)] for op, found in facts["ops"].items()]
    lines += ["", table(["op", "auto", *columns], rows), "", *_reasons(facts["ops"])]
    if "check" in facts:
        lines += ["", table(["checked", "backend", "dtype", "launches", "error/limit"], map(_row, facts["check"]))]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return str(value)


def _mark(text: str) -> str:
    return "yes" if text == "available" else "no"


def _reasons(ops: dict[str, dict[str, str]]) -> list[str]:
    """Each reason once, with the ops it holds for."""
    held: dict[tuple[str, str], list[str]] = {}
    for op, found in ops.items():
        for backend, text in found.items():
            if text != "available" and backend != "auto":
                held.setdefault((backend, text.replace(f"{op} has", "has")), []).append(op)
    return [f"{backend} ({', '.join(names)}): {text}" for (backend, text), names in held.items()]


def _row(row: dict[str, Any]) -> list[str]:
    return [row["op"], row["backend"], row["dtype"], str(row["launches"] or "-"), f"{row['error']:.2f}"]
