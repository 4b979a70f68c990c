"""Calls that no case of a ``spec.py`` holds: results and gradients are the reference's, or the backend says its limit.

Ties and NaN among maxima, the largest pyramids, axes beyond two bytes, mixed memory formats, vectors in half precision,
lists longer than a launch takes; and calls that once failed, each with what went wrong.
"""

import functools
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from pyramid_kernels import BackendError, functional
from pyramid_kernels.ops._shared.precision import ieee_convolutions
from pyramid_kernels.ops.channel_gate.op import WIDEST
from pyramid_kernels.verification import oracle
from tests.kernels import DEVICE
from tests.marks import KERNELS

FORMATS = {"contiguous": torch.contiguous_format, "last": torch.channels_last}
EXACT, HALF, LOOSE = ({"rtol": limit, "atol": limit} for limit in (0.0, 1e-2, 1e-4))
NAN, INFINITY = float("nan"), float("inf")


class Call(NamedTuple):
    """``failed``: what went wrong once; such a call is never left to the slow tests."""

    op: str
    make: Callable[[], dict[str, Any]]
    backends: tuple[str, ...] = KERNELS
    limits: dict[str, float] = {}
    failed: str = ""


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def integers(*shape: int, most: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(-most, most + 1, shape, generator=generator).to(DEVICE, dtype)


def marked(x: Tensor, value: float, *places: tuple[int, ...]) -> Tensor:
    for place in places:
        x[place] = value
    return x


def maps(shapes: Sequence[tuple[int, ...]], first: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Maps whose memory formats take turns."""
    formats = list(FORMATS.values())
    found = [drawn(*shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes)]
    return [m.contiguous(memory_format=formats[(i + first) % 2]) for i, m in enumerate(found)]


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def pool(size: tuple[int, int], bins: Any, **options: Any) -> dict[str, Any]:
    return {"x": drawn(1, 1, *size, dtype=torch.float64), "bins": bins, **options}


FAR = [(1, 17, 40, 48), (1, 9, 1, 1), (1, 5, 1, 48), (1, 9, 39, 2), (1, 3, 14, 17)]
LONG = [(1, 2, 1 + i % 5, 3) for i in range(17)]
MIXED = [(2, 8, 6, 8), (2, 8, 3, 4), (2, 8, 6, 8), (2, 8, 2, 2)]
CUDA = tuple(b for b in KERNELS if b == "cuda")


def with_nans(count: int, layout: str) -> dict[str, Any]:
    x = integers(2, 3, 7, 5, most=1)
    x.view(-1)[torch.randperm(x.numel(), generator=torch.Generator().manual_seed(count))[:count]] = NAN
    return {"x": x.contiguous(memory_format=FORMATS[layout]), "bins": (1, 2, 3), "mode": "max"}


CALLS: dict[str, Call] = {
    **{f"pool-ties-{n}-nan-{layout}": Call("pyramid_pool", functools.partial(with_nans, n, layout), limits=EXACT)
       for n, layout in product((0, 1, 5), FORMATS)},
    "pool-infinities": Call("pyramid_pool", lambda: {
        "x": marked(torch.full((1, 2, 4, 4), -INFINITY, device=DEVICE), INFINITY, (0, 1, 2, 3)), "bins": (1, 2, 3),
        "mode": "max"}, limits=EXACT),
    # As many bins as a backend takes, on maps where fixed windows are nearly twice as many.
    **{f"pool-largest-{i}-{mode}": Call("pyramid_pool", functools.partial(pool, size, bins, mode=mode, windows=w), on)
       for mode in ("avg", "max") for i, (on, size, bins, w) in enumerate((
        (("triton",), (31, 3), ((1, 1), (31, 1)), "adaptive"),
        (("triton",), (31, 3), ((16, 1),), "fixed"),
        (CUDA, (127, 67), tuple(range(64, 56, -1)), "adaptive"),
        (CUDA, (127, 67), (64,), "fixed"),
    ))},
    **{f"pool-axis-beyond-two-bytes-{i}-{layout}": Call("pyramid_pool", lambda bins=bins, layout=layout: {
        "x": integers(1, 2, 2, 65539, most=4, dtype=torch.float64).contiguous(memory_format=FORMATS[layout]),
        "bins": bins}, CUDA) for (i, bins), layout in product(enumerate([(1, 3), ((1, 61), (2, 3))]), FORMATS)},
    **{f"merge-mixed-formats-{first}-{merge}": Call("upsample_merge", lambda first=first, merge=merge: {
        "maps": maps(MIXED, first), "merge": merge, "activation": "relu"})
       for first, merge in product((0, 1), ("concat", "sum"))},
    # Pixels that reach far along both axes, along either one, and hardly: each kind is shared by other threads.
    **{f"merge-far-{layout}": Call("upsample_merge", lambda form=form: {
        "maps": [m.contiguous(memory_format=form) for m in maps(FAR, dtype=torch.float64)],
        "align_corners": True}, CUDA)
       for layout, form in FORMATS.items()},
    "merge-vectors-in-half": Call("upsample_merge", lambda: {
        "maps": maps([(1, 3, 4, 6), (1, 3, 2, 3)], dtype=torch.float16), "merge": "sum",
        "scale": drawn(3, dtype=torch.float16), "shift": drawn(3, dtype=torch.float16, seed=1)}, limits=HALF),
    # A concat takes several launches; a sum is rounded once.
    "merge-long-concat": Call("upsample_merge", lambda: {"maps": maps(LONG), "size": (5, 7)}, CUDA),
    "merge-long-sum": Call("upsample_merge", lambda: {"maps": maps(LONG[:16]), "size": (5, 7), "merge": "sum"}, CUDA),
    "project-more-levels-than-a-launch": Call("pyramid_project", lambda: {
        "pooled": integers(2, 8, 18), "grids": [(1, i % 3 + 1) for i in range(9)],
        "weights": [integers(i + 2, 8) for i in range(9)], "scale": [integers(i + 2) for i in range(9)],
        "activation": "relu"}, limits=EXACT),
    "merge-one-column": Call("upsample_merge", lambda: {
        "maps": [last(drawn(2, 5, 6, 1)), last(drawn(2, 5, 3, 1))], "size": (6, 1), "merge": "sum",
        "activation": "relu"}, failed="the stride of a dimension of size 1 was taken for a layout"),
    "branches-transposed-taps": Call("dilated_branches", lambda: {
        "x": drawn(1, 4, 5, 6), "weights": [drawn(3, 4, 3, 3).transpose(2, 3)], "dilations": (2,)}, limits=LOOSE,
        failed="the gradient of taps without one common stride was written past the end of its storage"),
    "pool-tall-map": Call("pyramid_pool", lambda: {"x": drawn(1, 3, 520, 2), "bins": (1,)},
        failed="one bin on a tall, thin batch was cut into so many bands that sorting their edges spilled"),
}  # fmt: skip


def every_call() -> list[Any]:
    """The interpreter takes long, and is left to the slow tests where the simulator runs the call too."""
    return [
        pytest.param(name, backend, id=f"{name}-{backend}", marks=[pytest.mark.slow] if slow else [])
        for name, call in CALLS.items()
        for backend in call.backends
        for slow in [(backend, DEVICE) == ("triton", "cpu") and "cuda" in call.backends and not call.failed]
    ]


@pytest.mark.parametrize("name,on", every_call())
def test_results_and_gradients_are_the_references(name: str, on: str) -> None:
    op, make, _, limits, _ = CALLS[name]
    given = oracle.replaced(make(), lambda t: t.detach().requires_grad_())
    leaves = [t for _, t in oracle.leaves(given)]
    results = []
    for backend in (on, "reference"):
        with ieee_convolutions():
            (y,) = oracle.call(op, given, backend)
            dy = torch.arange(y.numel(), device=DEVICE).remainder(97).sub(48).view(y.shape).to(y)
            results.append([y, *torch.autograd.grad(y, leaves, dy)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True, **limits)
    for m, gradient in zip(given.get("maps", ()), results[0][1:], strict=False):
        assert min(m.shape) == 1 or gradient.stride() == m.stride()


def test_gradients_of_a_sum_share_no_memory() -> None:
    """Two maps taken as they are got the same view of dy as their .grad, and so did the caller."""
    a, b = (drawn(1, 2, 3, 4).requires_grad_() for _ in range(2))
    y = functional.upsample_merge([a, b], merge="sum", backend="triton")
    gradient = torch.ones_like(y)
    y.backward(gradient)
    assert a.grad is not None and b.grad is not None
    a.grad.zero_()
    assert b.grad.eq(1).all() and gradient.eq(1).all()


BINS = "at most 32 bins along an axis"
EDGES = "the bins of all levels have .* edges along an axis of 4000, at most 840 are possible; use fewer bins"
GATE = {"x": torch.randn(1, WIDEST, 1, 1), "weight1": torch.randn(1, WIDEST), "weight2": torch.randn(WIDEST, 1)}
SQUARE, SMALL = torch.randn(1, 2, 70, 70), torch.randn(1, 1, 6, 5)
#: (op, arguments, backends, what it says): where a backend's limits are passed; ``auto`` takes another.
REFUSED: list[tuple[str, dict[str, Any], tuple[str, ...], str]] = [
    ("pyramid_pool", {"x": SQUARE, "bins": (1, 32)}, ("triton",), f"{BINS}, all levels together"),
    ("pyramid_pool", {"x": SQUARE, "bins": ((1, 32), (1, 1)), "windows": "fixed"}, ("triton",), BINS),
    ("pyramid_pool", {"x": SQUARE, "bins": (1,) * 9}, ("triton", "cuda"), "at most 8 levels, got 9"),
    ("pyramid_pool", {"x": SQUARE, "bins": (65,)}, ("cuda",), "at most 64 bins per level"),
    ("pyramid_pool", {"x": torch.zeros(1, 1, 1, 4000), "bins": [(1, b) for b in range(57, 65)]}, CUDA, EDGES),
    ("max_pool_pyramid", {"x": SMALL, "kernel_sizes": (5, 17)}, KERNELS, "pools of at most 15"),
    ("max_pool_pyramid", {"x": SMALL, "kernel_sizes": (3,) * 9, "cascade": True}, KERNELS, "at most 8 levels"),
    ("max_pool_pyramid", {"x": SMALL, "kernel_sizes": (15, 15), "cascade": True}, KERNELS, "windows of at most 25"),
    ("upsample_merge", {"maps": [SMALL] * 17, "merge": "sum"}, CUDA, "sums of at most 16 maps, got 17"),
    ("pyramid_conv", {"maps": [SMALL] * 17, "weight": torch.zeros(1, 17, 1, 1)}, ("cuda",), "at most 16 maps, got 17"),
    ("channel_gate", GATE, CUDA, f"at most {WIDEST} channels and hidden values together"),
]  # fmt: skip


@pytest.mark.parametrize("op,given,on,limit", [(op, given, b, limit) for op, given, on, limit in REFUSED for b in on])
def test_limits_of_a_backend_are_named_and_passed_over(op: str, given: dict[str, Any], on: str, limit: str) -> None:
    given = oracle.replaced(given, lambda t: t.to(DEVICE))
    with pytest.raises((BackendError, RuntimeError), match=limit):
        oracle.call(op, given, on)
    torch.testing.assert_close(oracle.call(op, given, "auto"), oracle.call(op, given, "reference"))
