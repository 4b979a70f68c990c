"""``python -m bench.graphs``: the backend "pyramid_kernels" beside plain Inductor, on whole models and on heads alone.

Of each, in both layouts: how much faster the compiled forward is, how much longer it compiles (CPU seconds, Inductor's
caches off), how long the pyramids took to find and prove, and what Dynamo's guards cost a call.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
import warnings
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.nn import Module

from pyramid_kernels import nn
from pyramid_kernels.benchmark import named, timing
from pyramid_kernels.benchmark.modules import QUICK
from pyramid_kernels.benchmark.rows import device_slug, environment, keep, recordable
from pyramid_kernels.console import UsageError, progress, table, unknown
from pyramid_kernels.fuse.check import difference
from pyramid_kernels.graph import backend

#: Name -> rows and columns of its image.
MODELS = {
    "torchvision:deeplabv3_mobilenet_v3_large": 256,
    "torchvision:efficientnet_b0": 224,
    "smp:DeepLabV3Plus/resnet18": 256,
    "smp:PSPNet/resnet18": 256,
    "smp:UPerNet/resnet18": 256,
    "transformers:SegformerForSemanticSegmentation": 256,
    "timm:hrnet_w18_small": 224,
}
NAMES = (*QUICK, *MODELS)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
PLAIN, OURS = "inductor", "pyramid_kernels"
#: Each is compiled as often, and the shorter time counts: the first one imports and warms what all of them need.
ROUNDS = 2
SHOWN = (
    "subject",
    "layout",
    "plain_ms",
    "ours_ms",
    "ratio",
    "plain_compile_s",
    "compile_ratio",
    "rewrite_s",
    "guards_us",
)
COLUMNS = ("date", "commit", "torch", "cuda", "driver", "device", "threads", *SHOWN)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.graphs", description="The graph backend beside Inductor.")
    parser.add_argument("--only", action="append", metavar="NAME", help="this model or head; may be given again")
    parser.add_argument("--layout", choices=LAYOUTS, help="only this one")
    parser.add_argument("--out", type=Path, metavar="DIR", help="add the rows to a CSV there; without it none is kept")
    args = parser.parse_args(argv)
    try:
        for name in args.only or ():
            if name not in NAMES:
                raise UsageError(unknown("model or head", name, NAMES))
        if args.out:
            recordable(args.out)
    except UsageError as error:
        parser.error(str(error))
    torch._inductor.config.force_disable_caches = True
    warnings.filterwarnings("ignore", "dynamo_pgo force disabled")
    jobs = [(name, layout) for name in args.only or NAMES for layout in LAYOUTS if args.layout in (None, layout)]
    rows = []
    for job in progress(jobs, "graphs", " ".join):
        rows.append(environment("cpu") | dict(zip(SHOWN, [*job, *measure(*job)], strict=True)))
        if args.out:
            keep(args.out / f"graphs-{device_slug('cpu')}.csv", rows[-1:], COLUMNS)
    print(table(SHOWN, [[row[key] for key in SHOWN] for row in rows]))
    return 0


def measure(name: str, layout: str) -> list[str]:
    """The values of a row, behind its subject and layout."""
    torch.manual_seed(0)
    model, args = subject(name, LAYOUTS[layout])
    compiling: dict[str, float] = {PLAIN: inf, OURS: inf}
    calls: dict[str, timing.Call] = {}
    rewriting = Stopwatch(backend.rewrite)
    with mock.patch.object(backend, "rewrite", rewriting):
        for _ in range(ROUNDS):
            torch.compiler.reset()
            for which in (PLAIN, OURS):
                seconds, calls[which] = compile_seconds(model, which, args)
                compiling[which] = min(compiling[which], seconds)
    if reason := difference(calls[PLAIN](), calls[OURS]()):
        raise SystemExit(f"{name}: the graphs give different results: {reason}")
    times = timing.interleaved(calls, "cpu", 40, 20.0)
    plain, ours = (1e3 * timing.Stats.of(times[which]).median for which in (PLAIN, OURS))
    return [
        f"{plain:.4g}", f"{ours:.4g}", f"{timing.paired_ratio(times[PLAIN], times[OURS]):.2f}",
        f"{compiling[PLAIN]:.1f}", f"{compiling[OURS] / compiling[PLAIN]:.2f}", f"{rewriting.seconds / ROUNDS:.2f}",
        f"{1e6 * guards(model, args):.0f}",
    ]  # fmt: skip


def subject(name: str, layout: torch.memory_format) -> tuple[Module, tuple[Any, ...]]:
    """A model or head in evaluation, and one image, or its maps, of random values."""
    build = QUICK.get(name)
    model = build.make() if build else named.build(name)
    shapes = build.shapes if build else [(3, MODELS[name], MODELS[name])]
    maps = [torch.randn(1, *shape).contiguous(memory_format=layout) for shape in shapes]
    kind = getattr(nn, name.removeprefix("nn."), None)
    listed = build is not None and isinstance(build.maps, list) and not getattr(kind, "spreads_maps", False)
    model.to(memory_format=layout)  # type: ignore[call-overload]
    return model.eval(), (maps,) if listed else tuple(maps)


def compile_seconds(model: Module, which: str | Callable[..., Any], args: Any) -> tuple[float, timing.Call]:
    """CPU seconds of the first call, compilers that it starts included; and what calls again."""
    compiled = torch.compile(copy.deepcopy(model), backend=which)

    def call() -> Any:
        with torch.no_grad():
            return compiled(*args)

    before = os.times()
    call()
    return sum(os.times()[:4]) - sum(before[:4]), call


class Stopwatch:
    """``function`` with its seconds added up."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *args: Any) -> Any:
        start = time.perf_counter()
        try:
            return self.function(*args)
        finally:
            self.seconds += time.perf_counter() - start


def guards(model: Module, args: Any) -> float:
    """Seconds that Dynamo adds to a call: those of one whose graphs have their results ready."""

    def ready(graph: Callable[..., Any], inputs: Any) -> Callable[..., Any]:
        results = graph(*inputs)
        return lambda *_: results

    torch.compiler.reset()
    _, call = compile_seconds(model, ready, args)
    return min(timing.interleaved({"": call}, "cpu", 200, 5.0)[""])


if __name__ == "__main__":
    raise SystemExit(main())
