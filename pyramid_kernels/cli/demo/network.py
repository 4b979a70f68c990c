"""``demo --model`` on a whole network with random weights: a photograph through both forms, cost, one picture."""

from __future__ import annotations

import argparse
import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ... import testing
from ...benchmark import timing
from ...benchmark.pairs import network_class, pair, paths
from ...console import interpret_without_gpu, progress, table
from .model import as_image, load_photo

FORMS = ("unfused", "fused")


@dataclass
class Outcome:
    """What the picture shows; ``views`` are maps (H, W), or vectors where the network gives no map."""

    name: str
    photo: Any
    views: dict[str, Tensor] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    ratio: float | None = None


def run(args: argparse.Namespace) -> int:
    device = interpret_without_gpu()
    multiple = math.lcm(8, network_class(args.model).multiple)
    outcome = Outcome(args.model, load_photo(args.image, args.side, multiple))
    x = as_image(outcome.photo).contiguous(memory_format=torch.channels_last).to(device)
    forms: dict[str, Any] = dict(pair(args.model, x))
    size = f"{x.shape[3]}x{x.shape[2]}"
    print(f"{args.model} with random weights on {args.image or 'skimage.data.coffee()'}, {size}, {device}\n")
    decisions = paths(forms["fused"], x)
    print("fused modules:", ", ".join(decisions) or "none", "\n")
    ratio = compare(forms, x, outcome)
    measure(forms, x, device, not decisions, outcome)
    from .picture import draw_network

    draw_network(outcome, args.out)
    print(f"\nPicture: {args.out}")
    return int(ratio > 1)


def compare(forms: dict[str, Any], x: Tensor, outcome: Outcome) -> float:
    """Error over limit of the fused network's output, and both outputs as the picture shows them."""
    outputs = {}
    for form in progress(("fused", "unfused", "exact"), "compare"):
        network = forms[form] if form in forms else copy.deepcopy(forms["unfused"]).double()
        with torch.no_grad():
            outputs[form] = network(x.double() if form == "exact" else x)
    ratio = testing.error_ratio(*outputs.values())
    outcome.views = {form: view(outputs[form]).cpu() for form in FORMS}
    print(table(["fused against float64, same weights", "error/limit"], [["output", f"{ratio:.2f}"]]))
    same = (outcome.views["fused"] == outcome.views["unfused"]).double().mean()
    print(f"{'label maps' if outputs['fused'].dim() == 4 else 'outputs'} identical on {same:.4%}\n")
    return ratio


def view(y: Tensor) -> Tensor:
    """The first image's largest class everywhere, or its only channel, or its vector."""
    if y.dim() == 2:
        return y[0]
    return y[0].argmax(0) if y.shape[1] > 1 else y[0, 0]


def measure(forms: dict[str, Any], x: Tensor, device: str, same: bool, outcome: Outcome) -> None:
    """Time and peak memory of one image through each form."""

    def infer(network: Any) -> None:
        with torch.no_grad():
            network(x)

    calls = {form: (lambda form=form: infer(forms[form])) for form in FORMS}
    samples = timing.interleaved(calls, device, rounds=8, budget=10.0)
    for form, call in calls.items():
        # The best of them: what else the machine does only ever adds.
        outcome.seconds[form] = min(samples[form])
        outcome.peak[form] = timing.peak_memory(call, device)
    rows = [[form, f"{1e3 * outcome.seconds[form]:.0f}", f"{outcome.peak[form] / 1e6:.0f}"] for form in FORMS]
    print(table(["inference", "ms", "peak MB"], rows))
    if same:
        print("same path: on this device `auto` is the unfused modules")
        return
    outcome.ratio = outcome.seconds["unfused"] / outcome.seconds["fused"]
    print(f"time unfused / fused {outcome.ratio:.2f}")
