"""``pytest bench --benchmark-only``: the BENCH cases of every op and the modules, in groups of one piece of work each.

After pytest-benchmark's tables comes one of paired ratios: interleaved samples, so that both sides see the same clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from . import timing
from .subjects import COMPILE, EAGER, MODES, MODULES, Subject, case_names, op_names, subjects

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.float32 if DEVICE == "cpu" else torch.bfloat16
WORK = [(name, case, mode) for name in op_names() for case in case_names(name, DEVICE == "cpu") for mode in MODES]

#: (subject, path, eager's time over ours) of every piece of work, for the summary.
ratios: list[tuple[str, str, str]] = []


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    name, case, mode = request.param
    torch.compiler.reset()
    (found,) = subjects(name, DEVICE, DTYPE, modes=(mode,), quick=DEVICE == "cpu", compiled=name in MODULES, only=case)
    path = found.paths["auto"]
    if found.same_path("auto"):
        ratios.append((found.name, path, "same path"))
    else:
        calls = {name: found.calls[name] for name in ("auto", EAGER)}
        times = timing.interleaved(calls, DEVICE, rounds=20, budget=3.0)
        ratios.append((found.name, path, f"{timing.paired_ratio(times[EAGER], times['auto']):.2f}"))
    yield found
    found.calls.clear()


@pytest.mark.parametrize("subject", WORK, ids=["-".join(work) for work in WORK], indirect=True, scope="module")
@pytest.mark.parametrize("provider", ["auto", EAGER, COMPILE], ids=["fused", "eager", "compile"])
def test_bench(subject: Subject, provider: str, benchmark: Any) -> None:
    if provider not in subject.calls:
        pytest.skip("compiled forms of single ops are left to bench.run; modules have theirs where a compiler is found")
    benchmark.group = subject.name
    call = subject.calls[provider]

    def synchronised() -> None:
        call()
        if DEVICE != "cpu":
            torch.cuda.synchronize()

    benchmark.pedantic(synchronised, rounds=3, warmup_rounds=1)
