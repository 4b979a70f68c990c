"""``python -m bench.schedule``: what the static schedule of ``dilated_branches`` makes of the published shapes.

Per shape and body: steps multiplied over those of all taps, the longest share over the mean, and tiles cut between
shares. A model, not a measurement: it needs the host simulator (``python -m tests.hostsim`` builds it), and no GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

from pyramid_kernels import _native
from pyramid_kernels.ops._shared import native
from pyramid_kernels.ops.dilated_branches import cuda
from pyramid_kernels.ops.dilated_branches.spec import BENCH

HEADER = "| shape | body | tile | steps of all taps | longest share / mean | tiles cut |\n|---|---|---|---|---|---|"


def rows(processors: int) -> list[str]:
    found = []
    native.SIMULATED_PROCESSORS = processors
    native.multiprocessors.cache_clear()
    for case in BENCH:
        x = torch.empty(case.args["x"].shape, dtype=torch.bfloat16, memory_format=torch.channels_last)
        weights = [torch.empty(w.shape, dtype=torch.bfloat16) for w in case.args["weights"]]
        for arch in (90, 80):
            native.SIMULATED_ARCHITECTURE = arch
            p = cuda.planned(x, weights, case.args["dilations"], "concat")
            mean = p["steps"] / p["pair"] / p["workers"]
            found.append(
                f"| {case.id} | {'Hopper' if p['sm90'] else 'sm_80'} | {p['n']}x{p['h']}x{p['w']} x {p['columns']} | "
                f"{p['steps'] / p['dense']:.1%} | {p['largest'] / mean:.3f} | {p['cuts']} |"
            )
    return found


#: Where ``python -m tests.hostsim`` leaves the simulator's module.
BUILT = Path(__file__).parents[1] / "build" / "hostsim" / "hostsim"


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
    print(HEADER)
    print("\n".join(rows(args.processors)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
