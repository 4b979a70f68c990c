"""Whole networks: parameters and FLOPs for docs/models.md, and frames per second, fused and unfused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .. import models
from ..console import progress, table
from ..fuse.check import difference
from ..models import Network
from . import timing
from .modules import define_detection_schemas
from .pairs import ORIGINAL, decisions, network_class, pair
from .rows import environment, keep
from .subjects import SAME

COLUMNS = (
    "date", "commit", "torch", "cuda", "driver", "device", "threads", "network", "image", "dtype", "layout",
    "unfused_ms", "fused_ms", "ratio", "path", "quick",
)  # fmt: skip
HEADER = (
    "network", "image", "unfused ms", "fused ms", "unfused frames/s", "fused frames/s", "unfused / fused",
    "path of the fused modules",
)  # fmt: skip
#: Of each network: at most so many rounds of both forms, in about so many seconds; ``--quick``: at least one round.
ROUNDS, SECONDS, QUICK_SECONDS = 20, 20.0, 2.0


def sizes() -> str:
    """A line for every network: parameters and the FLOPs of one image, a multiplication and an addition being two."""
    define_detection_schemas()
    lines = ["| network | image | parameters, millions | GFLOP | ops |", "|---|---|--:|--:|---|"]
    for name, cls in models.networks().items():
        parameters, flops = cost(cls)
        ops = ", ".join(f"`{op}`" for op in cls.ops)
        lines.append(f"| `{name}` | {image(cls)} | {parameters / 1e6:.2f} | {flops / 1e9:.1f} | {ops} |")
    return "\n".join(lines) + "\n"


def cost(cls: type[Network]) -> tuple[int, int]:
    """Parameters, and FLOPs of a forward in evaluation at the published size; nothing is computed."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = cls(fused=False).eval()
        network(torch.empty(1, 3, *cls.published_size))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops()


def image(cls: type[Network]) -> str:
    return "x".join(map(str, cls.published_size))


def measure(
    names: Sequence[str], device: str, dtype: torch.dtype, channels_last: bool, quick: bool, out: Path | None
) -> int:
    """Print frames per second of the networks; 1 where a fused one gives another result, which is not timed.

    ``out``: the CSV that the rows are added to.
    """
    rows, red = [], []
    for name in progress(names, "bench"):
        row = times(name, device, dtype, channels_last, quick)
        if isinstance(row, str):
            red.append(f"{name}: the fused network gives another result, so nothing is reported: {row}")
            continue
        rows.append(row)
        if out:
            keep(out, [environment(device) | row], COLUMNS)
    if rows:
        print(table(HEADER, map(_cells, rows)))
    for line in red:
        print(line, file=sys.stderr)
    print(f"Rows are in {out}." if out else "Nothing is written without --out.")
    return int(bool(red))


def times(name: str, device: str, dtype: torch.dtype, channels_last: bool, quick: bool) -> dict[str, str] | str:
    """The row of a network, one image of its published size at a time; or how its two forms differ."""
    cls = network_class(name)
    x = torch.randn(1, 3, *cls.published_size).to(device, dtype)
    x = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    forms = pair(name, x)
    calls = {form: inference(network, x) for form, network in forms.items()}
    reason = difference(calls["unfused"](), calls["fused"]())
    if reason:
        return reason
    chosen = decisions(forms["fused"], x)
    seconds, least = (QUICK_SECONDS, 1) if quick else (SECONDS, 3)
    samples = timing.interleaved(calls, device, ROUNDS, seconds, least=least)
    unfused, fused = (f"{1e3 * timing.Stats.of(samples[form]).median:.4g}" for form in calls)
    same = all(path.startswith(ORIGINAL) for path in chosen)
    ratio = f"{timing.paired_ratio(samples['unfused'], samples['fused']):.2f}{SAME if same else ''}"
    return {
        "network": name, "image": image(cls), "dtype": str(dtype).removeprefix("torch."),
        "layout": "channels_last" if channels_last else "contiguous", "unfused_ms": unfused, "fused_ms": fused,
        "ratio": ratio, "path": ", ".join(chosen) or "no module was fused", "quick": "yes" if quick else "no",
    }  # fmt: skip


def _cells(row: dict[str, str]) -> list[str]:
    spent = [row["unfused_ms"], row["fused_ms"]]
    rates = [f"{1e3 / float(ms):.4g}" for ms in spent]
    return [row["network"], row["image"], *spent, *rates, row["ratio"], row["path"]]


def inference(network: Network, x: Tensor) -> Callable[[], Any]:
    def call() -> Any:
        with torch.no_grad():
            return network(x)

    return call
