"""``python -m bench.schedule``: what the static schedule of ``dilated_branches`` makes of the published shapes.

Per shape and body: steps multiplied over those of all taps; the longest share over the mean, bare and with epilogues
and partial sums; how many tiles a worker has a part of, least and most, and tiles cut between workers; the longest
share of Hopper's dx and dw over the mean, with epilogues; the MB that DRAM must give once, and those that an L2 of 25,
40 and 60 MB asks it for (``schedule_model.cpp``). A model, not a measurement: it needs a C++ compiler and the host
simulator (``python -m tests.hostsim`` builds it), and no GPU.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pyramid_kernels import _native
from pyramid_kernels.ops._shared import native
from pyramid_kernels.ops._shared.spec import Case
from pyramid_kernels.ops.dilated_branches import cuda
from pyramid_kernels.ops.dilated_branches.spec import BENCH

COLUMNS = (
    "shape", "body", "tile", "steps of all taps", "longest / mean", "with epilogues", "tiles a worker", "tiles cut",
    "dx, dw", "MB once", "MB at 25, 40, 60 of L2",
)  # fmt: skip
ROOT = Path(__file__).parents[1]


#: Cycles of a Hopper step, 128 pixels by 256 columns by 64 channels, 6 % over what the tensor cores need; and the clock
#: that a GPU keeps under such work.
CYCLES, CLOCK = 1100, 1.5e9


class Planned(NamedTuple):
    plan: dict[str, Any]
    longest: float  # steps of the longest share, with epilogues
    over_mean: str
    fewest: str
    most: str
    once: str
    dram: list[str]
    dx: list[str]  # steps of the longest worker, with epilogues, and over the mean; of Hopper's bodies
    dw: list[str]


def planned(case: Case, processors: int, architecture: int) -> Planned:
    native.SIMULATED_PROCESSORS, native.SIMULATED_ARCHITECTURE = processors, architecture
    native.multiprocessors.cache_clear()
    args = case.args
    n, c, h, w = args["x"].shape
    x = torch.empty(n, c, h, w, dtype=torch.bfloat16, memory_format=torch.channels_last)
    weights = [torch.empty(w.shape, dtype=torch.bfloat16) for w in args["weights"]]
    p = cuda.planned(x, weights, args["dilations"], "concat")
    branches = [v for w, d in zip(weights, args["dilations"], strict=True) for v in (w.shape[0], w.shape[2], d)]
    numbers = [n, h, w, c, *(p[key] for key in ("n", "h", "w", "columns", "pair", "workers")), *branches]
    longest, over_mean, fewest, most, once, *rest = modelled(numbers)
    return Planned(p, float(longest), over_mean, fewest, most, once, rest[:3], rest[3:5], rest[5:])


def rows(processors: int) -> Iterator[list[str]]:
    for case in BENCH:
        for arch in (90, 80):
            p, _, over_mean, fewest, most, once, dram, dx, dw = planned(case, processors, arch)
            gradients = f"{float(dx[1]):.3f}, {float(dw[1]):.3f}" if p["sm90"] else ""
            mean = p["steps"] / p["pair"] / p["workers"]
            once, *read = (f"{float(mb):.0f}" for mb in (once, *dram))
            yield [
                case.id, "Hopper" if p["sm90"] else "sm_80", f"{p['n']}x{p['h']}x{p['w']} x {p['columns']}",
                f"{p['steps'] / p['dense']:.1%}", f"{p['largest'] / mean:.3f}", f"{float(over_mean):.3f}",
                f"{fewest} to {most}", str(p["cuts"]), gradients, once, ", ".join(read),
            ]  # fmt: skip


def modelled(numbers: list[int]) -> list[str]:
    """What ``schedule_model.cpp`` prints of them."""
    done = subprocess.run([_program(), *map(str, numbers)], check=True, capture_output=True, text=True)
    return done.stdout.split()


@functools.cache
def _program() -> str:
    """Its path, compiled for this process."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    program = f"{folder.name}/schedule_model"
    source = Path(__file__).with_name("schedule_model.cpp")
    compiler = os.environ.get("CXX", "c++")
    subprocess.run([compiler, "-std=c++20", "-O2", f"-I{ROOT / 'csrc'}", source, "-o", program], check=True)
    return program


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
    for row in (COLUMNS, ["---"] * len(COLUMNS), *rows(args.processors)):
        print(f"| {' | '.join(row)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
