"""``info``: versions, build, GPUs, and per op what each backend can do here."""

from __future__ import annotations

import argparse
import json
import os
import platform
import warnings
from typing import Any

import torch

from .. import _native, functional
from .._version import __version__
from ..backends import BACKENDS, BackendError, Op, Problem, cannot, capability, gpu_name, select, why_not_taken
from ..console import interpret_without_gpu, table
from ..ops import all_ops, spec
from ..verification import ledger
from ..verification.rows import HEADER, Row, printed, verify

#: One memory-bound op and one built on matrix products, small enough for the interpreter.
CHECKED = ("pyramid_pool", "dilated_branches")

SETTINGS = ("PYRAMID_KERNELS_", "TRITON_INTERPRET")
NOWHERE = "nowhere, for there is no home folder; set PYRAMID_KERNELS_HOME"

#: Said below the table of ops.
LEGEND = (
    "cuda to reference: whether the backend can run float32 here. auto: what it takes for the op's first test case\n"
    "(float32, channels_last); `pyramid_kernels.explain` tells for any call."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--check", action="store_true", help=f"run a small check of {' and '.join(CHECKED)} as well")


def run(args: argparse.Namespace) -> int:
    if args.check:
        interpret_without_gpu()  # before the list below imports Triton
    facts = {**environment(), "ops": {name: backends(op) for name, op in all_ops().items()}}
    if args.check:
        facts["check"] = check()
    print(json.dumps(facts, indent=1) if args.json else as_text(facts))
    return int(any(row["failures"] for row in facts.get("check", [])))


def environment() -> dict[str, Any]:
    """Versions, build, GPUs and settings."""
    built = json.loads(ledger.BUILD_INFO.read_text()) if ledger.BUILD_INFO.is_file() else {}
    built.pop("sources", None)  # hashes, which only the ledger reads
    return {
        "pyramid_kernels": __version__,
        "build": built or "source tree",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": ledger.installed("triton"),
        "cuda": torch.version.cuda,
        "cuda core": _core(),
        "gpus": [_gpu(i) for i in range(torch.cuda.device_count())],
        "settings": {k: v for k, v in sorted(os.environ.items()) if k.startswith(SETTINGS)},
        "ledger": {"shipped": str(ledger.SHIPPED), "user": str(ledger.user_file() or NOWHERE), "verified": _verified()},
    }


def _core() -> str:
    found = _native.module("cuda")
    return found if isinstance(found, str) else f"compiled for {found.architectures}"


def _gpu(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    return f"{properties.name}, compute capability {properties.major}.{properties.minor}"


def _verified() -> int:
    """Kernel bodies that have passed on one of these GPUs, as they are now."""
    devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    gpus = {(capability(device), gpu_name(device)) for device in devices}
    passed = [entry for entry in ledger.read()["verified"] if entry.get("result") == "passed"]
    return sum(any(ledger.counts(entry, *gpu) for gpu in gpus) for entry in passed)


def backends(op: Op) -> dict[str, str]:
    """Per backend of ``op``: "available" or the reason it is not, for float32 here; and what "auto" takes."""
    from ..ops._shared.spec import materialise

    case = spec(op.name).CASES[0]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors = materialise(case, torch.float32, device, channels_last=True)
    _, problem, sizes = next(p for p in getattr(functional, op.name).problems(**tensors) if p[0] is op)
    found: dict[str, str] = {name: cannot(op, problem, name) or "available" for name in BACKENDS if name != "auto"}
    for name in op.order if device == "cuda" else ():
        if found[name] == "available" and (reason := why_not_taken(op, problem, name)):
            found[name] = f"available, not taken by auto: {reason}"
    return {**found, "auto": _auto(op, problem, sizes)}


def _auto(op: Op, problem: Problem, sizes: tuple[int, ...]) -> str:
    with warnings.catch_warnings(action="ignore"):  # what they would say is in the report
        try:
            return f"takes {select(op, problem, sizes, 'auto')}"
        except BackendError as error:  # the settings name a backend that cannot run here, or allow no fallback
            return f"raises: {str(error).removeprefix(f'{op.name}: ')}"


def check() -> list[dict[str, Any]]:
    """A small real check: rows of op, backend, dtype, layout, launches, error over limit and failures."""
    return [row._asdict() for name in CHECKED for row in verify(all_ops()[name], cases=1)]


def as_text(facts: dict[str, Any]) -> str:
    lines = [f"{key:16}{_plain(facts[key])}" for key in facts if key not in ("ops", "check")]
    columns = [name for name in BACKENDS if name != "auto"]
    rows = [[op, *(_mark(found[c]) for c in (*columns, "auto"))] for op, found in facts["ops"].items()]
    lines += ["", table(["op", *columns, "auto"], rows), "", LEGEND, *_reasons(facts["ops"])]
    if "check" in facts:
        checked = [Row(**row) for row in facts["check"]]
        lines += ["", table(["checked", *HEADER[1:]], map(printed, checked))]
        lines += [f"{' '.join(row[:4])} {failure}" for row in checked for failure in row.failures]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return str(value)


def _mark(text: str) -> str:
    """A reason or decision in one word."""
    if text.startswith(("takes ", "raises: ")):
        return text.removeprefix("takes ").split(":")[0]
    return "yes" if text.startswith("available") else "no"


def _reasons(ops: dict[str, dict[str, str]]) -> list[str]:
    """Each reason once, with the ops it holds for."""
    held: dict[tuple[str, str], list[str]] = {}
    for op, found in ops.items():
        for backend, text in found.items():
            if text != "available" and not text.startswith("takes "):
                text = text.replace(f"{op} has", "has").replace(f"--op {op}", "--op OP")
                held.setdefault((backend, text), []).append(op)
    every = list(ops)
    return [
        f"{backend} ({'all ops' if names == every else ', '.join(names)}): {text}"
        for (backend, text), names in held.items()
    ]
