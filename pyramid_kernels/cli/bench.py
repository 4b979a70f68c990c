"""``bench``: the benchmarks of ``bench/run.py``."""

from __future__ import annotations

import argparse

from .common import bench_module


def add_arguments(parser: argparse.ArgumentParser) -> None:
    bench_module("run").add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    return bench_module("run").run(args)
