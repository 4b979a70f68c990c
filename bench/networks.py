"""Whole networks: parameters and FLOPs for docs/models.md, and frames per second, fused and unfused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pyramid_kernels import models
from pyramid_kernels.cli.common import table
from pyramid_kernels.cli.networks import network_class, pair, paths
from pyramid_kernels.fuse.check import difference
from pyramid_kernels.models import Network
from pyramid_kernels.progress import progress

from . import timing
from .modules import define_detection_schemas

HEADER = (
    "network", "image", "unfused ms", "fused ms", "unfused frames/s", "fused frames/s", "unfused / fused",
    "path of the fused modules",
)  # fmt: skip
#: Of each network: at most so many rounds of both forms, in about so many seconds.
ROUNDS, SECONDS = 20, 20.0


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


def measure(names: Sequence[str], device: str, dtype: torch.dtype, channels_last: bool) -> int:
    """Print frames per second of the networks; 1 where a fused one gives another result, which is not timed."""
    rows, red = [], []
    for name in progress(names, "bench"):
        row = frames_per_second(name, device, dtype, channels_last)
        if isinstance(row, str):
            red.append(f"{name}: the fused network gives another result, so nothing is reported: {row}")
        else:
            rows.append(row)
    if rows:
        print(table(HEADER, rows))
    for line in red:
        print(line, file=sys.stderr)
    return int(bool(red))


def frames_per_second(name: str, device: str, dtype: torch.dtype, channels_last: bool) -> list[str] | str:
    """The row of a network, one image of its published size at a time; or how its two forms differ."""
    cls = network_class(name)
    x = torch.randn(1, 3, *cls.published_size).to(device, dtype)
    x = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    forms = pair(name, x)
    calls = {form: inference(network, x) for form, network in forms.items()}
    reason = difference(calls["unfused"](), calls["fused"]())
    if reason:
        return reason
    chosen = paths(forms["fused"], x)
    times = timing.interleaved(calls, device, ROUNDS, SECONDS)
    medians = [timing.Stats.of(times[form]).median for form in calls]
    ratio = f"{timing.paired_ratio(times['unfused'], times['fused']):.2f}"
    cells = [name, image(cls), *(f"{1e3 * s:.4g}" for s in medians), *(f"{1 / s:.4g}" for s in medians)]
    return [*cells, ratio if chosen else "same path", ", ".join(chosen)]


def inference(network: Network, x: Tensor) -> Callable[[], Any]:
    def call() -> Any:
        with torch.no_grad():
            return network(x)

    return call
