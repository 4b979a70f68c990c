"""``python -m bench.proofs``: what ``fuse_`` with an example takes and gives, model by model, on this CPU.

Of each in two processes, one after the other: seconds of the first and of the second ``fuse_``, what it keeps with its
ratios and errors, and those ratios measured once more by ``pk.compare``.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch

import pyramid_kernels as pk
from pyramid_kernels import models
from pyramid_kernels.benchmark import named
from pyramid_kernels.benchmark.modules import define_detection_schemas
from pyramid_kernels.console import progress, table

#: Name -> rows and columns of its image.
MODELS = {
    "torchvision:deeplabv3_mobilenet_v3_large": 256,
    "smp:DeepLabV3Plus/resnet18": 256,
    "smp:PSPNet/resnet18": 256,
    "smp:UPerNet/resnet18": 256,
    "transformers:SegformerForSemanticSegmentation": 256,
    "timm:hrnet_w18_small": 224,
    "tests.test_graph_models:yolo": 64,
    "bench.proofs:bisenet": 256,
    "bench.proofs:speed": 256,
}
HEADER = (
    "model",
    "first s",
    "second s",
    "unfused / fused",
    "again",
    "module",
    "unfused / fused",
    "again",
    "error / limit",
    "runs",
)


def bisenet() -> Any:
    return models.BiSeNet(fused=False)


def speed() -> Any:
    define_detection_schemas()
    return models.SPEED(fused=False)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.proofs", description="What fuse_ with an example takes.")
    parser.add_argument("names", nargs="*", help="these models, by their names for `compare` (default: nine)")
    parser.add_argument("--training", action="store_true", help="in training, two images")
    parser.add_argument("--once", choices=("first", "second"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    names = args.names or list(MODELS)
    if args.once:
        print(json.dumps(once(names[0], args.training, args.once == "second")))
        return 0
    rows: list[list[str]] = []
    for name in progress(names, "proofs"):
        with tempfile.TemporaryDirectory() as home:
            first, second = (_apart(name, args.training, home, which) for which in ("first", "second"))
        head = [name, f"{first['seconds']:.1f}", f"{second['seconds']:.1f}", *map(_ratio, second["whole"])]
        for i, module in enumerate(second["modules"] or [["nothing kept", None, None, None, ""]]):
            path, *ratios, runs = module
            rows.append([*(head if i == 0 else [""] * len(head)), path, *map(_ratio, ratios), runs])
    print(table(HEADER, rows))
    return 0


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _apart(name: str, training: bool, home: str, which: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.proofs", name, "--once", which, *(["--training"] if training else [])]
    done = subprocess.run(command, env=os.environ | {"PYRAMID_KERNELS_HOME": home}, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def once(name: str, training: bool, again: bool) -> dict[str, Any]:
    """One ``fuse_`` in this process; ``again``: and the ratios of what it kept, measured anew."""
    torch.manual_seed(0)
    model = named.build(name).train(training)
    side = MODELS.get(name, 256)
    x = torch.randn(1 + training, 3, side, side)
    fused = copy.deepcopy(model)
    start = time.perf_counter()
    report = pk.fuse_(fused, example_input=x)
    seconds = time.perf_counter() - start
    rows = {row.path: row for row in pk.compare(model, x, training=training, compiled=False).rows} if again else {}
    ratios = {path: row.fused_ratio for path, row in rows.items()}
    modules = [[e.path, e.ratio, ratios.get(e.path), e.error, e.detail] for e in report.fused]
    return {"seconds": seconds, "whole": [report.speedup, ratios.get("")], "modules": modules}


if __name__ == "__main__":
    raise SystemExit(main())
