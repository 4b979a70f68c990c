"""``python -m tests.host``: host time of every op's calls, and of fused modules, in multiples of ``torch.relu``.

Thread CPU time, best of many, ``torch.relu`` of a small map measured beside each row. CUDA ops run on empty batches,
where the compiled core plans a launch and makes none; Triton's launches are stubbed at the compiled kernel. What is not
in it, on a GPU: the caching allocator and the driver's launch. Exits with 1 where a row is over its budget, and not by
noise alone.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

os.environ["TRITON_INTERPRET"] = "0"

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

import pyramid_kernels as pk  # noqa: E402
from pyramid_kernels import functional as F  # noqa: E402
from pyramid_kernels.ops._shared.plans import Native, Triton  # noqa: E402
from tests import hostsim  # noqa: E402

ROUNDS, CALLS = 30, 60
#: How much two measurements of one row differ.
NOISE = 1.1


class Row(NamedTuple):
    name: str
    times: float  # of torch.relu's
    most: float


class Compiled:
    """A compiled Triton kernel that launches nothing."""

    function = packed_metadata = None

    def run(self, *_: Any) -> None: ...


def stub_triton() -> None:
    """Let Triton's backends run on CPU tensors, and let each launch return a compiled kernel at once."""
    from triton.runtime.jit import JITFunction

    from pyramid_kernels.ops._shared import triton

    triton.INTERPRETED = True
    JITFunction.run = lambda self, *_, **__: Compiled()  # type: ignore[method-assign]


def measured(*fns: Callable[[], Any]) -> list[float]:
    """The time of each ``fn()`` in multiples of ``torch.relu``, all in turn."""
    x = torch.empty(8, 8)

    def spent(call: Callable[[], Any]) -> float:
        start = time.thread_time_ns()
        for _ in range(CALLS):
            call()
        return time.thread_time_ns() - start

    for fn in fns * 3:
        fn()
    rounds = [[spent(fn) for fn in (*fns, lambda: torch.relu(x))] for _ in range(ROUNDS)]
    *times, relu = map(min, zip(*rounds, strict=True))
    return [t / relu for t in times]


def a_map(n: int, *sizes: int) -> Tensor:
    return torch.empty(n, *sizes).contiguous(memory_format=torch.channels_last)


def calls(n: int, backend: Any) -> Iterator[tuple[str, Callable[..., Any], list[Tensor]]]:
    """Name, call and tensors that may want a gradient of every op, on ``n`` images."""
    x = a_map(n, 64, 16, 12)
    yield "pyramid_pool", lambda x: F.pyramid_pool(x, (1, 2, 3, 6), backend=backend), [x]
    yield "max_pool_pyramid", lambda x: F.max_pool_pyramid(x, backend=backend), [x]
    maps = [x, *(a_map(n, 32, side, side) for side in (1, 2, 3, 6))]
    yield "upsample_merge", lambda *maps: F.upsample_merge(list(maps), (16, 12), backend=backend), maps
    yield "upsample_argmax", lambda x: F.upsample_argmax(x, (32, 24), backend=backend), [x]
    weight, vector = torch.randn(64, 64), torch.randn(64)
    gate = lambda x, w, v: F.channel_gate(x, w, scale1=v, shift1=vector, backend=backend)  # noqa: E731
    yield "channel_gate", gate, [x, weight, vector]
    weights = [torch.randn(32, 64, k, k).contiguous(memory_format=torch.channels_last) for k in (1, 3, 3)]
    branches = lambda x, *w: F.dilated_branches(x, list(w), dilations=(1, 2, 4), backend=backend)  # noqa: E731
    yield "dilated_branches", branches, [x, *weights]
    pooled, levels = torch.empty(n, 14, 64).transpose(1, 2), [(1, 1), (2, 2), (3, 3)]
    square = [torch.randn(32, 64) for _ in levels]
    norms = [torch.ones(32) for _ in range(4 * len(levels))]

    def project(pooled: Tensor, *given: Tensor) -> Any:
        norm = [(*norms[4 * i : 4 * i + 4], 1e-5) for i in range(len(levels))]
        return F.pyramid_project(pooled, levels, list(given), norm=norm, activation="relu", backend=backend)

    yield "pyramid_project", project, [pooled, *square]
    depthwise = [torch.randn(64, 1, 3, 3) for _ in levels]

    def separable(x: Tensor, *given: Tensor) -> Any:
        return F.separable_pyramid(x, (1, 2, 3), list(given[:3]), list(given[3:6]), list(given[6:]), backend=backend)

    points = [w[:, :, None, None] for w in square]
    yield "separable_pyramid", separable, [x, *depthwise, *points, *(torch.randn(32) for _ in levels)]


def budget(fn: Any, backend: str) -> float:
    """Of calls without a gradient, by what the plan of the newest call of a public function holds."""
    plan = list(fn.shortcuts.values())[-1]
    launches = sum(isinstance(step, Native | Triton) for step in plan.steps)
    return 10.0 if backend == "cuda" else 6 + 0.25 * plan.inputs + 2 * launches


def op_rows(backend: str) -> Iterator[Row]:
    for name, call, tensors in calls(0 if backend == "cuda" else 1, backend):
        fn, given = getattr(F, name), [t.detach() for t in tensors]
        (without,) = measured(lambda call=call, given=given: call(*given))  # type: ignore[misc]
        most, count = budget(fn, backend), list(fn.shortcuts.values())[-1].inputs
        yield Row(f"{name}, {backend}", without, most)
        if name == "upsample_argmax":
            continue
        given = [t.detach().requires_grad_() for t in tensors]
        (wanted,) = measured(lambda call=call, given=given: call(*given))  # type: ignore[misc]
        most = 2 * most if backend == "triton" else 20 + max(0, count - 15) / 2
        yield Row(f"{name}, {backend}, with gradient", wanted, most)


def module_rows() -> Iterator[Row]:
    """Fused modules on a map that is all host time; the budget is what the unfused one takes."""
    x = a_map(1, 64, 4, 4)
    arm = pk.nn.AttentionRefinementModule(64, 32, backend="triton")
    modules = pk.nn.ASPP(64, (2, 4), 32, backend="triton"), pk.nn.PPM(64, 16, (1, 2, 3), backend="triton"), arm
    for module in modules:
        plain = module.eval().to_reference().eval()
        assert module.why_original(x) is None
        with torch.no_grad():
            fused, unfused = measured(lambda m=module: m(x), lambda m=plain: m(x))  # type: ignore[misc]
            yield Row(f"nn.{type(module).__name__}", fused, unfused)


def main() -> int:
    reason = hostsim.build()
    torch.set_num_threads(1)
    stub_triton()
    over = False
    for row in chain(op_rows("triton"), () if reason else op_rows("cuda"), module_rows()):
        wrong = row.times > NOISE * row.most
        over |= wrong
        print(f"{row.name:44} {row.times:6.1f}  of {row.most:6.1f}{'  over' if wrong else ''}", flush=True)
    if reason:
        print(f"without CUDA ops: {reason}")
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
