"""What commands and benchmarks share: usage errors, choices with a hint, progress, tables, where things run."""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

import torch

from .backends import BACKENDS

T = TypeVar("T")

#: Seconds after which a bar is shown.
DELAY = 2.0
#: Seconds between the lines that stand for the bar off a terminal.
LINES = 10.0


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
    from .ops import all_ops

    return _one_of("op", text, all_ops())


def backend_name(text: str) -> str:
    """An argparse type: a backend to force."""
    return _one_of("backend", text, [b for b in BACKENDS if b != "auto"])


def _one_of(kind: str, text: str, choices: Iterable[str]) -> str:
    if text not in choices:
        raise UsageError(unknown(kind, text, choices))
    return text


def require(module: str, who: str) -> Any:
    """A module of the demo extra, or one line on how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(f"{who} needs {error.name}; install it with: pip install 'pyramid_kernels[demo]'") from None


def check_file(option: str, path: Path) -> None:
    """Refuse, before the work, a file that cannot be written for want of its folder."""
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{option}: the folder {str(path.absolute().parent)!r} does not exist")
    if path.is_dir():
        raise UsageError(f"{option} must be a file, got the folder {str(path)!r}")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="add every row to this file, a line of JSON each")


def add_row(file: Path | None, row: dict[str, Any]) -> None:
    """Add ``row`` to the file of ``--json``, if there is one."""
    if file is not None:
        with file.open("a") as rows:
            rows.write(json.dumps(row) + "\n")


def check_picture(option: str, path: Path, who: str) -> None:
    """The same for a picture, of a kind that matplotlib writes."""
    kinds = require("matplotlib.backends.backend_agg", who).FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:] not in kinds:
        raise UsageError(f"{option} must end in one of {', '.join(sorted(kinds))}, got {str(path)!r}")
    check_file(option, path)


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
    root = Path(__file__).parents[1]
    git = shutil.which("git")
    if git and (root / ".git").exists():
        done = subprocess.run([git, "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True)
        return done.stdout.strip() or "unknown"
    built = Path(__file__).parent / "build_info.json"  # a source tree's says when it was installed, not what runs
    return json.loads(built.read_text())["commit"] if built.is_file() else "unknown"


def gpu_facts() -> dict[str, Any]:
    """What an entry of the ledger says of the machine: the GPU, and for readers the commit and the driver."""
    major, minor = torch.cuda.get_device_capability()
    return {"arch": 10 * major + minor, "gpu": torch.cuda.get_device_name(), "commit": commit(), "driver": driver()}


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


class Lines:
    """A table printed row by row as results come: a column is as wide as its header and the longest of its texts.

    A column without texts holds numbers.
    """

    def __init__(self, columns: dict[str, Iterable[str]]) -> None:
        self.widths = {name: max(map(len, (name, *texts))) for name, texts in columns.items()}
        self.right = [not list(texts) for texts in columns.values()]
        self.begun = False

    def head(self) -> None:
        self.begun = True
        self.row(list(self.widths))
        self.row(["-" * width for width in self.widths.values()])

    def row(self, cells: Sequence[Any]) -> None:
        if not self.begun:
            self.head()
        pairs = zip(map(str, cells), self.widths.values(), self.right, strict=True)
        say("  ".join(text.rjust(w) if right else text.ljust(w) for text, w, right in pairs).rstrip())


def say(line: str, file: TextIO | None = None) -> None:
    """Print a line now, past a progress bar."""
    from tqdm import tqdm

    file = file or sys.stdout
    tqdm.write(line, file=file)
    file.flush()


def _numeric(text: str) -> bool:
    return text[:1].isdigit() or text in ("-", "")


def progress(items: Sequence[T], text: str, name: Callable[[T], str] = str) -> Iterable[T]:
    """``items`` behind a bar on stderr that shows the one at work; it comes after a delay and disappears when done.

    Off a terminal a line now and then says how far it is.
    """
    from tqdm import tqdm

    shown = sys.stderr.isatty()
    bar = tqdm(items, desc=text, leave=False, disable=not shown, dynamic_ncols=True, delay=DELAY)
    said = time.monotonic()
    for done, item in enumerate(bar):
        bar.set_postfix_str(name(item), refresh=shown and bar.format_dict["elapsed"] > DELAY)
        if not shown and time.monotonic() - said > LINES:
            said = time.monotonic()
            print(f"{text}: {done} of {len(items)} done, now {name(item)}", file=sys.stderr, flush=True)
        yield item
