"""``pytest bench --benchmark-only``: the BENCH cases of every op and the modules, in groups of one piece of work each.

After pytest-benchmark's tables comes one of paired ratios: interleaved samples, so that both sides see the same clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pyramid_kernels.benchmark import timing
from pyramid_kernels.benchmark.subjects import COMPILE, EAGER, MODULES, Subject, can_compile, op_names, subjects, work

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.float32 if DEVICE == "cpu" else torch.bfloat16
WORK = [(name, *key) for name in op_names() for key in work(name, DEVICE)]

#: About how long each callable is timed.
SECONDS = 1.0
NAMES = {"auto": "fused", EAGER: "eager", COMPILE: "compile"}


def providers(name: str) -> list[str]:
    """Who is timed; compiling each single op as well is left to ``bench.run``."""
    return ["auto", EAGER, *([COMPILE] if name in MODULES and can_compile(DEVICE) else [])]


#: (subject, path, eager's time over ours) of every piece of work, for the summary.
ratios: list[tuple[str, str, str]] = []


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    name, case, mode = request.param
    torch.compiler.reset()
    (found,) = subjects(name, DEVICE, DTYPE, modes=(mode,), compiled=name in MODULES, only=case)
    path = found.paths["auto"]
    times = timing.interleaved({name: found.calls[name] for name in ("auto", EAGER)}, DEVICE, rounds=20, budget=3.0)
    ratios.append((found.name, path, found.ratio("auto", times)))
    yield found
    found.calls.clear()


@pytest.mark.parametrize(
    ("subject", "provider"),
    [(work, provider) for work in WORK for provider in providers(work[0])],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else NAMES[value],
    indirect=["subject"],
    scope="module",
)
def test_bench(subject: Subject, provider: str, benchmark: Any) -> None:
    benchmark.group = subject.name
    call = subject.calls[provider]

    def synchronised() -> None:
        call()
        if DEVICE != "cpu":
            torch.cuda.synchronize()

    synchronised()
    rounds = round(SECONDS / timing.sample(call, DEVICE))
    benchmark.pedantic(synchronised, rounds=max(3, min(rounds, 100)), warmup_rounds=1)
