"""``python -m bench.report [--write]``: the README's table and picture, docs/measured.md and docs/gpu-ledger.md, from
what was measured, docs/predicted.md from what was predicted, and docs/models.md from the networks.

Without ``--write`` it changes nothing and exits with 1 where a file differs from what it would generate.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyramid_kernels.backends import KERNELS
from pyramid_kernels.benchmark import networks
from pyramid_kernels.benchmark.subjects import MODES, op_names
from pyramid_kernels.ops import all_ops
from pyramid_kernels.verification import ledger

from . import headline, predict

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
HEADER = (
    "op or module", "case", "mode", "dtype", "layout", "threads", "path of `auto`", "auto ms", "eager ms", "compile ms",
    "eager / auto", "auto MB", "eager MB", "commit",
)  # fmt: skip
#: What a row is one of; ``provider`` tells its forms apart.
KEYS = "op", "case", "mode", "dtype", "layout", "threads"
Row = dict[str, str]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="Generate tables from results.")
    parser.add_argument("--write", action="store_true", help="write the files")
    args = parser.parse_args(argv)
    write = args.write
    pages = {path: text() for path, text in generated().items()}
    stale = [path for path, text in pages.items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        if write:
            path.write_text(pages[path])
        print(f"{path.relative_to(ROOT)}: {'written' if write else 'differs; run python -m bench.report --write'}")
    return int(bool(stale) and not write)


def generated() -> dict[Path, Callable[[], str]]:
    """What makes every generated file's content."""
    docs = ROOT / "docs"
    return {
        ROOT / "README.md": lambda: fill(ROOT / "README.md", headline=headline.table_of()),
        docs / "gpu-ledger.md": gpu_ledger,
        docs / "measured.md": lambda: fill(docs / "measured.md", measured=measured()),
        docs / "predicted.md": predict.page,
        docs / "models.md": lambda: fill(docs / "models.md", sizes=networks.sizes()),
    }


def fill(page: Path, **tables: str) -> str:
    """The text of ``page`` with each of ``tables`` put anew between the markers of its name."""
    text = page.read_text()
    for name, content in tables.items():
        pattern = rf"(<!-- {name}: .*? -->\n).*?(<!-- end {name} -->)"
        text, count = re.subn(pattern, lambda m, c=content: m[1] + c + m[2], text, flags=re.S)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"{page.name} must hold the markers of table {name!r} once, found {count}")
    return text


def measured() -> str:
    """One table per device: the newest row of every case, slower ones included."""
    parts = [_device(newest(path)) for path in _files()]
    return "\n".join(parts) if parts else "No measurement is committed yet.\n"


def _files() -> list[Path]:
    return [path for path in sorted(RESULTS.glob("*.csv")) if not path.stem.startswith(("peers-", "networks-"))]


def newest(path: Path) -> list[Row]:
    """The last row of everything that ``KEYS`` tell apart, and provider; none of ``--quick``."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["quick"] != "yes"]
    return list({tuple(row[key] for key in (*KEYS, "provider")): row for row in rows}.values())


def grouped(rows: list[Row]) -> dict[tuple[str, ...], dict[str, Row]]:
    """By ``KEYS``, provider -> its row, where both sides of the ratio are there."""
    groups: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in KEYS), {})[row["provider"]] = row
    return {key: by for key, by in groups.items() if {"auto", "eager"} <= by.keys()}


def _device(rows: list[Row]) -> str:
    groups = grouped(rows)
    order = op_names()
    keys = sorted(groups, key=lambda k: (order.index(k[0]), k[1], MODES.index(k[2]), *k[3:]))
    sample = rows[-1]
    driver = f", CUDA {sample['cuda']}, driver {sample['driver']}" if sample["driver"] else ""
    lines = [
        f"**{sample['device']}**, torch {sample['torch']}{driver}",
        "",
        *remarks(groups),
        "",
        f"| {' | '.join(HEADER)} |",
        "|---|---|---|---|---|--:|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    lines += [_line(key, groups[key]) for key in keys]
    return "\n".join(lines) + "\n"


def _line(key: tuple[str, ...], by: dict[str, Row]) -> str:
    ours, eager = by["auto"], by["eager"]
    compiled = by["compile"]["median_ms"] if "compile" in by else ""
    cells = [*key, ours["path"], ours["median_ms"], eager["median_ms"], compiled, ours["vs_eager"]]
    return f"| {' | '.join([*cells, ours['peak_mb'], eager['peak_mb'], ours['commit']])} |"


def remarks(groups: dict[tuple[str, ...], dict[str, Row]]) -> list[str]:
    """What a reader would otherwise have to find out: where torch.compile wins, and what nobody can redo."""
    timed = {
        key: float(by["auto"]["median_ms"]) / float(by["compile"]["median_ms"])
        for key, by in groups.items()
        if "compile" in by
    }
    faster = [key for key in timed if timed[key] > 1]
    lines = []
    if faster:
        most = max(faster, key=lambda key: timed[key])
        lines.append(
            f"`torch.compile` is faster than `auto` in {len(faster)} of the {len(timed)} rows that timed it, most in "
            f"{' '.join(most[:3])}, {most[4]}: {timed[most]:.1f} times."
        )
    if len(timed) < len(groups):
        lines.append("Where the column of compile is empty it was not timed.")
    if any(by["auto"]["commit"].endswith("-dirty") for by in groups.values()):
        lines.append("Rows of a `-dirty` commit came from a tree with changes that no commit holds.")
    return lines


def gpu_ledger() -> str:
    """Per kernel what has run on which GPU, by the shipped ledger."""
    entries = json.loads(ledger.SHIPPED.read_text())["verified"]
    lines = [
        "# GPU ledger",
        "",
        "What has run on a GPU, kernel by kernel. `python -m bench.report --write` generates this page from",
        "`pyramid_kernels/gpu_ledger.json` and the kernels in the source; `python -m pyramid_kernels verify` on a GPU",
        "writes the entries. Without a GPU every kernel runs in Triton's interpreter or the host simulator, and is",
        "compiled ahead of time.",
        "",
        "| op | backend | kernel | GPU | versions | commit | what ran | result |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for op in all_ops():
        for backend in KERNELS:
            mine = [e for e in entries if (e["op"], e["backend"]) == (op, backend)]
            for kernel in kernels(op, backend):
                start = f"| {op} | {backend} | `{kernel}` |"
                lines += [f"{start} {_entry(e)} |" for e in mine] or [f"{start} not yet run on a GPU | | | | |"]
    return "\n".join(lines) + "\n"


def _entry(e: dict[str, Any]) -> str:
    return " | ".join(e[k] for k in ("gpu", "versions", "commit", "ran", "result"))


def kernels(op: str, backend: str) -> list[str]:
    """Every kernel of the op, by its name ending in ``_kernel``, read from its sources."""
    if backend == "cuda":
        sources, pattern = (ROOT / "csrc" / op).glob("*.cuh"), r"__global__[^;{]*?\b(\w+_kernel)\("
    else:
        sources = (ROOT / "pyramid_kernels" / "ops" / op).glob("triton*.py")
        pattern = r"@triton\.jit[^\n]*\n(?:@[^\n]*\n)*def (\w+_kernel)\("
    return [name for file in sorted(sources) for name in re.findall(pattern, file.read_text())]


if __name__ == "__main__":
    sys.exit(main())
