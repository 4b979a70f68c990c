"""What the commands share: usage errors, choices with a hint, progress, tables, where things run."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ..backends import BACKENDS


class UsageError(Exception):
    """The command cannot run as asked; the message is one line: what was got, what is expected."""


def unknown(kind: str, got: str, choices: Iterable[str]) -> str:
    """One line that names the choices, and the closest of them first."""
    names = list(choices)
    close = difflib.get_close_matches(got, names, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {kind} {got!r}; {hint}It is one of {', '.join(names)}"


def op_name(text: str) -> str:
    """An argparse type: the name of an op."""
    from ..ops import all_ops

    return _one_of("op", text, all_ops())


def backend_name(text: str) -> str:
    """An argparse type: a backend to force."""
    return _one_of("backend", text, [b for b in BACKENDS if b != "auto"])


def _one_of(kind: str, text: str, choices: Iterable[str]) -> str:
    if text not in choices:
        raise UsageError(unknown(kind, text, choices))
    return text


def interpret_without_gpu() -> str:
    """The device to check kernels on; on a CPU, Triton's interpreter is switched on before anything imports Triton."""
    if torch.cuda.is_available():
        return "cuda"
    if "triton" not in sys.modules:
        os.environ.setdefault("TRITON_INTERPRET", "1")
    return "cpu"


def commit() -> str:
    """That of the source tree this package runs from, or the one it was built from; PYRAMID_KERNELS_COMMIT, if set."""
    if named := os.environ.get("PYRAMID_KERNELS_COMMIT"):
        return named
    root = Path(__file__).parents[2]
    git = shutil.which("git")
    if git and (root / ".git").exists():
        done = subprocess.run([git, "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True)
        return done.stdout.strip() or "unknown"
    built = Path(__file__).parents[1] / "build_info.json"  # a source tree's says when it was installed, not what runs
    return json.loads(built.read_text())["commit"] if built.is_file() else "unknown"


def versions() -> dict[str, str]:
    """What a measurement or verification belongs to: the commit, torch and its CUDA, Triton and the driver."""
    parts = [f"torch {torch.__version__}", f"CUDA {torch.version.cuda}", f"triton {installed('triton')}"]
    if torch.cuda.is_available():
        parts.append(f"driver {driver()}")
    return {"versions": ", ".join(parts), "commit": commit()}


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def driver() -> str:
    """The NVIDIA driver's version, or "unknown" without its tool."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return "unknown"
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip().split("\n")[0] or "unknown"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A plain table, columns as wide as their content; numbers to the right."""
    cells = [list(header), *([str(v) for v in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [all(_numeric(v) for v in column[1:]) and len(column) > 1 for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(v.rjust(w) if r else v.ljust(w) for v, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def _numeric(text: str) -> bool:
    return text[:1].isdigit() or text in ("-", "")


def bench_module(name: str) -> ModuleType:
    """A module of the benchmarks of the very tree that this package runs from, whatever else is called bench.

    They are ``pyramid_kernels._bench``: a folder of an installed package, in a source tree ``bench/`` beside it.
    """
    package = Path(__file__).parents[1]
    path = f"{__package__.rpartition('.')[0]}._bench"
    places = (package / "_bench", package.parent / "bench")
    folder = next((place for place in places if (place / f"{name}.py").is_file()), None)
    if folder is None:
        raise UsageError("the benchmarks are not installed; reinstall pyramid_kernels with pip")
    if path not in sys.modules:
        # By its place: an editable install of another tree would answer to the same name.
        spec = importlib.util.spec_from_file_location(path, folder / "__init__.py")
        assert spec and spec.loader
        sys.modules[path] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[path])
    return importlib.import_module(f"{path}.{name}")
