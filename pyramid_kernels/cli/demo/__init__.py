"""``demo``: a photograph through a network, unfused and fused: proof of equality, training, cost, one picture."""

from __future__ import annotations

import argparse
import copy
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import models, testing
from ...benchmark import timing
from ...console import UsageError, check_picture, interpret_without_gpu, progress, table, unknown
from ...fuse import fuse_
from ...nn import ASPP
from . import network
from .kernels import prove_kernels
from .model import DeepLabV3, as_batch, load_photo, segments, step

#: The demo's own model; ``models.DeepLabV3`` is another.
TRAINED = "deeplabv3-narrow"
FORMS = ("unfused", "fused")


@dataclass
class Outcome:
    """What the picture shows."""

    photo: Any
    target: Any
    paths: dict[str, str]
    labels: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    ratio: float | None = None

    @property
    def same_path(self) -> bool:
        """Whether both forms train through the same code, so that their times say nothing."""
        return self.paths["training"].startswith("original")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", nargs="?", type=Path, metavar="IMAGE", help="default: scikit-image's cup of coffee")
    text = f"{TRAINED}, the demo's own, trained as well (default); or untrained: {', '.join(models.networks())}"
    parser.add_argument("--model", default=TRAINED, help=text)
    parser.add_argument("--out", type=Path, default=Path("demo.png"), help="the picture (default: demo.png)")
    parser.add_argument("--side", type=int, default=256, help="pixels of the photograph's longer side (default: 256)")
    parser.add_argument("--steps", type=int, default=20, help="training steps of each form (default: 20)")


def run(args: argparse.Namespace) -> int:
    _check(args)
    if args.model != TRAINED:
        return network.run(args)
    device = interpret_without_gpu()
    photo = load_photo(args.image, args.side)
    x, y = as_batch(photo, target := segments(photo), device)
    torch.manual_seed(0)
    model: nn.Module = DeepLabV3().to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fused = copy.deepcopy(model)
    print(f"{args.model} on {args.image or 'skimage.data.coffee()'}, {x.shape[3]}x{x.shape[2]}, {device}\n")
    print(fuse_(fused, strict=True), "\n")
    forms = dict(zip(FORMS, (model, fused), strict=True))
    outcome = Outcome(photo, target, _paths(fused, x))
    train(forms, x, y, args.steps, outcome)
    ratios = compare(model, x, y, outcome)
    _report(outcome, ratios)
    measure(forms, x, y, device, outcome)
    proven = prove_kernels(model, x, device)
    from .picture import draw

    draw(outcome, args.out)
    print(f"\nPicture: {args.out}")
    return int(max([*ratios.values(), *proven]) > 1)


def _check(args: argparse.Namespace) -> None:
    if args.model not in (names := (TRAINED, *models.networks())):
        raise UsageError(unknown("model", args.model, names))
    if not 64 <= args.side <= 2048 or args.steps < 1:
        raise UsageError(f"--side must be 64 to 2048 and --steps at least 1, got {args.side} and {args.steps}")
    check_picture("--out", args.out, "demo")
    if args.image and os.path.exists(args.image) and args.out.exists() and os.path.samefile(args.image, args.out):
        raise UsageError(f"--out must not be IMAGE itself, got {str(args.out)!r} for both; give --out another name")


def _paths(fused: nn.Module, x: Tensor) -> dict[str, str]:
    """Which code the fused ASPP runs, by mode."""
    head: Any = next(m for m in fused.modules() if isinstance(m, ASPP))
    with torch.no_grad():
        features = fused.backbone(x[:1])  # type: ignore[operator]
    found = {}
    for mode in ("training", "inference"):
        fused.train(mode == "training")
        with torch.set_grad_enabled(mode == "training"):
            found[mode] = ", ".join(head.decisions(features))
    return found


def train(forms: dict[str, nn.Module], x: Tensor, y: Tensor, steps: int, outcome: Outcome) -> None:
    """Train both forms from the same weights, a step of one after a step of the other."""
    optimisers = {name: torch.optim.Adam(form.train().parameters(), 2e-3) for name, form in forms.items()}
    outcome.losses = {name: [] for name in forms}
    for _ in progress(range(steps), "train"):
        for name, form in forms.items():
            outcome.losses[name].append(step(form, x, y).item())
            optimisers[name].step()


def compare(model: nn.Module, x: Tensor, y: Tensor, outcome: Outcome) -> dict[str, float]:
    """Error over limit of the fused form with the trained weights of the unfused one, and both label maps."""
    fused, exact = copy.deepcopy(model), copy.deepcopy(model).double()
    fuse_(fused, strict=True)
    three = {"fused": fused, "unfused": model, "exact": exact}
    images = {name: x.double() if name == "exact" else x for name in three}
    ratios, logits = {}, {}
    for name, form in three.items():
        with torch.no_grad():
            logits[name] = form.eval()(images[name])
        outcome.labels[name] = logits[name][0].argmax(0).cpu()
    ratios["logits, inference"] = testing.error_ratio(*logits.values())
    ours, plain = (form.train().aspp for form in (fused, model))
    with torch.no_grad():
        features = model.backbone(x)  # type: ignore[operator]
    for aspp in (ours, plain):
        # The image-level norm: with two images its statistics hold two values, and its true gradient is zero.
        aspp.convs[-1][2].eval()  # type: ignore[index,union-attr]
    gradients = testing.module_error_ratios(ours, plain, features)  # type: ignore[arg-type]
    ratios["ASPP, training"] = gradients.pop("y")
    return ratios | {name: r for name, r in gradients.items() if name.startswith("d")}


def _report(outcome: Outcome, ratios: dict[str, float]) -> None:
    gradients = {name: r for name, r in ratios.items() if name.startswith("d")}
    worst = max(gradients, key=gradients.__getitem__)
    rows = [[name, f"{r:.2f}"] for name, r in ratios.items() if name not in gradients]
    rows.append([f"{len(gradients)} gradients of ASPP, worst: {worst}", f"{gradients[worst]:.2f}"])
    print(table(["fused against float64, same weights", "error/limit"], rows))
    same = (outcome.labels["fused"] == outcome.labels["unfused"]).double().mean()
    apart = max(abs(a - b) for a, b in zip(*outcome.losses.values(), strict=True))
    first, last = outcome.losses["fused"][0], outcome.losses["fused"][-1]
    print(f"label maps identical on {same:.4%} of the pixels")
    print(f"training both forms: loss {first:.3f} -> {last:.3f}, curves at most {apart:.1e} apart\n")


def measure(forms: dict[str, nn.Module], x: Tensor, y: Tensor, device: str, outcome: Outcome) -> None:
    """Time and peak memory of a training step of each form."""
    calls = {name: (lambda form=form: step(form.train(), x, y)) for name, form in forms.items()}
    samples = timing.interleaved(calls, device, rounds=8, budget=10.0)
    for name, call in calls.items():
        # The best of them: what else the machine does only ever adds.
        outcome.seconds[name] = min(samples[name])
        forms[name].zero_grad(set_to_none=True)
        outcome.peak[name] = timing.peak_memory(call, device)
    rows = [[name, f"{1e3 * outcome.seconds[name]:.0f}", f"{outcome.peak[name] / 1e6:.0f}"] for name in FORMS]
    print(table(["training step", "ms", "peak MB"], rows))
    if outcome.same_path:
        print(f"same path: on this device `auto` is the unfused module ({outcome.paths['training']})\n")
        return
    outcome.ratio = outcome.seconds["unfused"] / outcome.seconds["fused"]
    print(f"time unfused / fused {outcome.ratio:.2f} (through {outcome.paths['training']})\n")
