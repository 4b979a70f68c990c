"""``python -m bench.headline``: whole models unfused, fused and under ``torch.compile``, on one image.

Each is a ``python -m pyramid_kernels compare`` of its own; ``bench/results/models.json`` keeps what it said, and
docs/models.png shows it. ``bench.report`` makes the README's table of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pyramid_kernels.benchmark.bars import COLOURS, INK
from pyramid_kernels.benchmark.compare import milliseconds
from pyramid_kernels.console import progress

#: Name for ``compare`` -> rows and columns of its image.
MODELS = {
    "transformers:SegformerForSemanticSegmentation": (512, 512),
    "smp:UPerNet/resnet18": (512, 512),
    "smp:PSPNet/resnet18": (512, 512),
    "smp:DeepLabV3Plus/resnet18": (512, 512),
    "torchvision:deeplabv3_mobilenet_v3_large": (513, 513),
    "bench.proofs:bisenet": (512, 1024),
    "timm:hrnet_w18_small": (224, 224),
    "bench.proofs:speed": (192, 256),
}
RECORD = Path(__file__).parent / "results" / "models.json"
PICTURE = Path(__file__).parents[1] / "docs" / "models.png"
HEADER = "model", "image", "unfused", "fused", "torch.compile", "fused / unfused memory"

Entry = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.headline", description="Whole models, for the README.")
    parser.add_argument("names", nargs="*", help="these models (default: all; the others keep their rows)")
    args = parser.parse_args(argv)
    kept = {entry["model"]: entry for entry in recorded()}
    for name in progress(args.names or list(MODELS), "models"):
        kept[name] = measured(name)
    RECORD.write_text(json.dumps([kept[name] for name in MODELS if name in kept], indent=1) + "\n")
    draw(recorded())
    print(table_of())
    return 0


def measured(name: str) -> Entry:
    """The comparison's whole model and what it ran on."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "compare.json"
        size = list(map(str, MODELS[name]))
        command = [sys.executable, "-m", "pyramid_kernels", "compare", name, "--size", *size, "--json", str(file)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found: Entry = json.loads(file.read_text())
    facts = {key: found[key] for key in ("device", "dtype", "threads", "torch")}
    return {"model": name, "size": MODELS[name], **facts, "whole": found["rows"][0]}


def recorded() -> list[Entry]:
    found: list[Entry] = json.loads(RECORD.read_text()) if RECORD.exists() else []
    return found


def table_of() -> str:
    entries = recorded()
    if not entries:
        return "No measurement is committed yet.\n"
    first = entries[0]
    threads = f"{first['threads']} thread{'s' * (first['threads'] != 1)}"
    lines = [f"{first['device']}, {threads}, {first['dtype']}, torch {first['torch']}, one image:", ""]
    lines += [f"| {' | '.join(HEADER)} |", "|---|---|--:|--:|--:|--:|"]
    lines += [f"| {' | '.join(_cells(entry))} |" for entry in entries]
    return "\n".join(lines) + "\n"


def _cells(entry: Entry) -> list[str]:
    whole = entry["whole"]
    memory = whole["fused_mb"] / whole["unfused_mb"] if whole["fused_mb"] is not None else None
    times = [_time(whole["fused_ms"], whole["fused_ratio"]), _time(whole["compiled_ms"], whole["compiled_ratio"])]
    size = "x".join(map(str, entry["size"]))
    return [f"`{entry['model']}`", size, f"{milliseconds(whole['unfused_ms'])} ms", *times, _ratio(memory)]


def _time(ms: float | None, ratio: float | None) -> str:
    return "-" if ms is None or ratio is None else f"{milliseconds(ms)} ms, {ratio:.2f} times as fast"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def draw(entries: list[Entry]) -> None:
    """Bars of how many times as fast as unfused each form is."""
    figure = Figure(figsize=(9, 0.6 * len(entries) + 1), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for shift, (form, key) in enumerate({"fused": "fused_ratio", "torch.compile": "compiled_ratio"}.items()):
        places = [i + 0.35 * (shift - 0.5) for i in range(len(entries))]
        ratios = [entry["whole"][key] or 0 for entry in entries]
        bars = axis.barh(places, ratios, 0.3, color=COLOURS[form], label=form)
        axis.bar_label(bars, [f"{r:.2f}" if r else "-" for r in ratios], padding=3, color=INK)
    axis.axvline(1, color=COLOURS["unfused"], label="unfused")
    axis.set_yticks(range(len(entries)), [entry["model"].partition(":")[2] for entry in entries], color=INK)
    axis.invert_yaxis()
    axis.set_xlabel("times as fast as unfused", color=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(PICTURE, dpi=130)


if __name__ == "__main__":
    raise SystemExit(main())
