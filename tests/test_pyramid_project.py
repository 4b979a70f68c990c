"""Where the oracle's cases of ``pyramid_project`` do not go: long pyramids, IEEE products, strided vectors."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from pyramid_kernels import _native
from pyramid_kernels.functional import pyramid_project
from pyramid_kernels.ops._shared.precision import ieee_convolutions
from pyramid_kernels.ops.pyramid_project.spec import CASES, launches
from pyramid_kernels.testing import count_launches
from pyramid_kernels.verification import oracle
from tests.kernels import DEVICE

HAS_CUDA = not isinstance(_native.module(DEVICE), str)
BACKENDS = ("triton", "cuda") if HAS_CUDA else ("triton",)


def compared(backend: str, exact: bool, **arguments: Any) -> None:
    """Result and gradients of ``backend`` equal those of the reference."""
    leaves = [t for _, t in oracle.leaves(arguments) if t.requires_grad]
    results = []
    for name in ("reference", backend):
        y = pyramid_project(**arguments, backend=name)
        dy = torch.arange(y.numel(), device=DEVICE).remainder(5).sub(2).view(y.shape).to(y.dtype)
        results.append((y, *torch.autograd.grad(y, leaves, dy)))
    tolerance = 0.0 if exact else 1e-5
    torch.testing.assert_close(results[1], results[0], rtol=tolerance, atol=tolerance)


def integers(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(-3, 4, shape, generator=generator).float().to(DEVICE).requires_grad_()


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_levels_than_a_launch_takes(backend: str) -> None:
    grids = [(1, i % 3 + 1) for i in range(9)]
    compared(
        backend, True, pooled=integers(2, 8, 18), grids=grids, weights=[integers(i + 2, 8) for i in range(9)],
        scale=[integers(i + 2) for i in range(9)], activation="relu",
    )  # fmt: skip


@pytest.mark.skipif(not HAS_CUDA, reason="needs the CUDA core or its simulator")
def test_the_spec_counts_the_launches_of_long_pyramids() -> None:
    case = replace(CASES[1], args=CASES[1].args | {"grids": [(1, 1)] * 17})
    pooled, weights = integers(1, 4, 17), [integers(2, 4) for _ in range(17)]
    with count_launches() as forward:
        y = pyramid_project(pooled, [(1, 1)] * 17, weights, backend="cuda")
    with count_launches() as backward:
        y.sum().backward()
    for counted, listed in zip((forward, backward), launches(case, False, "cuda"), strict=True):
        assert {kernel: count for (kernel, _), count in counted.items()} == listed


@pytest.mark.skipif(not HAS_CUDA, reason="needs the CUDA core or its simulator")
@pytest.mark.parametrize("channels_last", [False, True])
def test_products_follow_the_precision_of_convolutions(channels_last: bool) -> None:
    case = next(case for case in CASES if case.id == "deep-130")
    rounded = oracle.check("pyramid_project", case, "cuda", torch.float32, channels_last, device=DEVICE)
    with ieee_convolutions():
        ieee = oracle.check("pyramid_project", case, "cuda", torch.float32, channels_last, device=DEVICE)
    assert not ieee.failures()
    assert not torch.equal(rounded.run.results["y"], ieee.run.results["y"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("vectors", ["scale", "norm"])
def test_vectors_of_any_stride(backend: str, vectors: str) -> None:
    """Every other element of a longer vector: kernels read the first ones."""
    a, b, mean, var = (torch.arange(1.0, 9.0, device=DEVICE)[::2] + i for i in range(4))
    a, b = a.requires_grad_(), b.requires_grad_()
    epilogue = {"scale": [a], "shift": [b]} if vectors == "scale" else {"norm": [(a, b, mean, var, 1e-3)]}
    with ieee_convolutions():
        compared(backend, False, pooled=integers(2, 8, 4), grids=[(2, 2)], weights=[integers(4, 8)], **epilogue)
