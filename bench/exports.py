"""``python -m bench.exports``: what a fused head costs in onnxruntime beside the same one unfused, on one thread."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pyramid_kernels.benchmark import timing
from pyramid_kernels.console import progress, table
from tests.test_onnx import HEADS, LAYOUTS, exports, multiply_adds

HEADER = ("head", "multiply-adds unfused, M", "fused, M", "nodes unfused", "fused", "ms unfused", "fused", "ratio")


def main() -> int:
    rows = []
    for name in progress([*HEADS, *LAYOUTS], "exports"):
        with tempfile.TemporaryDirectory() as folder:
            _, ((plain, unfused), (model, fused)) = exports(name, Path(folder))
        times = timing.interleaved({"unfused": unfused, "fused": fused}, "cpu", 40, 10.0)
        work = [f"{multiply_adds(m) / 1e6:.0f}" for m in (plain, model)]
        nodes = [len(m.graph.node) for m in (plain, model)]
        spent = [f"{1e3 * timing.Stats.of(times[form]).median:.3g}" for form in times]
        rows.append((name, *work, *nodes, *spent, f"{timing.paired_ratio(times['unfused'], times['fused']):.2f}"))
    print(table(HEADER, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
