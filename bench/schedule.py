"""``python -m bench.schedule``: what the static schedule of ``dilated_branches`` makes of the published shapes.

Per shape and body: steps multiplied over those of all taps; the longest share over the mean, bare and with epilogues
and partial sums; how many tiles a worker has a part of, least and most, and tiles cut between workers; the MB that DRAM
must give once, and those that an L2 of 25, 40 and 60 MB asks it for (``schedule_model.cpp``). A model, not a
measurement: it needs a C++ compiler and the host simulator (``python -m tests.hostsim`` builds it), and no GPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from pyramid_kernels import _native
from pyramid_kernels.ops._shared import native
from pyramid_kernels.ops.dilated_branches import cuda
from pyramid_kernels.ops.dilated_branches.spec import BENCH

COLUMNS = (
    "shape", "body", "tile", "steps of all taps", "longest / mean", "with epilogues", "tiles a worker", "tiles cut",
    "MB once", "MB at 25, 40, 60 of L2",
)  # fmt: skip
ROOT = Path(__file__).parents[1]


def rows(processors: int, model: Callable[[list[int]], list[str]]) -> list[list[str]]:
    found = []
    native.SIMULATED_PROCESSORS = processors
    native.multiprocessors.cache_clear()
    for case in BENCH:
        shape = case.args["x"].shape
        x = torch.empty(shape, dtype=torch.bfloat16, memory_format=torch.channels_last)
        weights = [torch.empty(w.shape, dtype=torch.bfloat16) for w in case.args["weights"]]
        branches = [
            v for w, d in zip(weights, case.args["dilations"], strict=True) for v in (w.shape[0], w.shape[2], d)
        ]
        for arch in (90, 80):
            native.SIMULATED_ARCHITECTURE = arch
            p = cuda.planned(x, weights, case.args["dilations"], "concat")
            mean = p["steps"] / p["pair"] / p["workers"]
            numbers = [p[key] for key in ("n", "h", "w", "columns", "pair", "workers")]
            n, c, h, w = shape
            longest, fewest, most, *read = model([n, h, w, c, *numbers, *branches])
            once, *dram = (f"{float(mb):.0f}" for mb in read)
            found.append([
                case.id, "Hopper" if p["sm90"] else "sm_80", f"{p['n']}x{p['h']}x{p['w']} x {p['columns']}",
                f"{p['steps'] / p['dense']:.1%}", f"{p['largest'] / mean:.3f}", f"{float(longest):.3f}",
                f"{fewest} to {most}", str(p["cuts"]), once, ", ".join(dram),
            ])  # fmt: skip
    return found


def modelled(folder: str) -> Callable[[list[int]], list[str]]:
    """``schedule_model.cpp``, compiled into ``folder``: what it prints of the numbers that it is given."""
    program = Path(folder) / "schedule_model"
    source = Path(__file__).with_name("schedule_model.cpp")
    compiler = os.environ.get("CXX", "c++")
    subprocess.run([compiler, "-std=c++20", "-O2", f"-I{ROOT / 'csrc'}", source, "-o", program], check=True)

    def model(numbers: list[int]) -> list[str]:
        done = subprocess.run([program, *map(str, numbers)], check=True, capture_output=True, text=True)
        return done.stdout.split()

    return model


#: Where ``python -m tests.hostsim`` leaves the simulator's module.
BUILT = ROOT / "build" / "hostsim" / "hostsim"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.schedule", description=__doc__)
    parser.add_argument("--processors", type=int, default=132, help="multiprocessors of the GPU planned for")
    args = parser.parse_args()
    for built in BUILT.glob("_hostsim*.so"):
        os.environ.setdefault(_native.SIMULATOR, str(built))
    core = _native.module("cpu")
    if isinstance(core, str):
        print(
            "bench.schedule: the planner needs the host simulator; build it first: python -m tests.hostsim",
            f"({core})",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory() as folder:
        found = rows(args.processors, modelled(folder))
    for row in (COLUMNS, ["---"] * len(COLUMNS), *found):
        print(f"| {' | '.join(row)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
