"""Where the oracle's cases of ``pyramid_pool`` do not go: ties and NaN among maxima, and the largest pyramids."""

from typing import Any

import pytest
import torch

from pyramid_kernels import BackendError, _native
from pyramid_kernels.functional import pyramid_pool
from tests.kernels import DEVICE

NAN = float("nan")
BACKENDS = ("triton",) if isinstance(_native.module(DEVICE), str) else ("triton", "cuda")


def pooled(x: torch.Tensor, backend: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Result and gradient, a different incoming gradient for every cell."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = pyramid_pool(x, (1, 2, 3), mode="max", backend=backend)
    weights = torch.arange(1.0, y.numel() + 1, device=x.device).view(y.shape)
    return y.detach(), torch.autograd.grad(y, x, weights)[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("nan", [0, 1, 5])
def test_first_maximum_and_nan_are_those_of_pytorch(backend: str, channels_last: bool, nan: int) -> None:
    generator = torch.Generator().manual_seed(nan)
    x = torch.randint(-1, 2, (2, 3, 7, 5), generator=generator).float()
    x.view(-1)[torch.randperm(x.numel(), generator=generator)[:nan]] = NAN
    x = x.to(DEVICE)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    for ours, theirs in zip(pooled(x, backend), pooled(x, "reference"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_infinities_are_ordinary_values(backend: str) -> None:
    x = torch.full((1, 2, 4, 4), -float("inf"), device=DEVICE)
    x[0, 1, 2, 3] = float("inf")
    for ours, theirs in zip(pooled(x, backend), pooled(x, "reference"), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize(
    "backend,bins,windows",
    [
        ("triton", ((1, 1), (31, 1)), "adaptive"),
        ("triton", ((16, 1),), "fixed"),
        ("cuda", (64, 63, 62, 61, 60, 59, 58, 57), "adaptive"),
        ("cuda", (64,), "fixed"),
    ],
)
def test_the_largest_pyramids(backend: str, bins: tuple[Any, ...], windows: str, mode: str) -> None:
    """As many bins as a backend takes, on a map where fixed windows are nearly twice as many."""
    if backend not in BACKENDS:
        pytest.skip("no CUDA kernels here")
    size = (31, 3) if backend == "triton" else (127, 67)
    x = torch.randn(1, 1, *size, dtype=torch.float64, device=DEVICE, requires_grad=True)
    ours, theirs = (pyramid_pool(x, bins, mode=mode, windows=windows, backend=b) for b in (backend, "reference"))
    torch.testing.assert_close(ours, theirs)
    dy = torch.randn_like(ours)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, dy)[0] for y in (ours, theirs)))


@pytest.mark.parametrize("bins", [(1, 3), ((1, 61), (2, 3))])
@pytest.mark.parametrize("channels_last", [False, True])
def test_an_axis_longer_than_two_bytes_hold(bins: Any, channels_last: bool) -> None:
    if "cuda" not in BACKENDS:
        pytest.skip("no CUDA kernels here")
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-4, 5, (1, 2, 2, 65539), generator=generator).double().to(DEVICE)
    x = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format).requires_grad_()
    ours, theirs = (pyramid_pool(x, bins, backend=b) for b in ("cuda", "reference"))
    torch.testing.assert_close(ours, theirs)
    dy = torch.randn_like(ours)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, dy)[0] for y in (ours, theirs)))


def test_more_edges_than_a_launch_carries_are_refused() -> None:
    if "cuda" not in BACKENDS:
        pytest.skip("no CUDA kernels here")
    x = torch.zeros(1, 1, 1, 4000, device=DEVICE)
    limit = "the bins of all levels have .* edges along an axis of 4000, at most 840 are possible; use fewer bins"
    with pytest.raises(RuntimeError, match=limit):
        pyramid_pool(x, [(1, b) for b in range(57, 65)], backend="cuda")


@pytest.mark.parametrize(
    "backend,bins,windows,limit",
    [
        ("triton", (1, 32), "adaptive", "at most 32 bins along an axis, all levels together"),
        ("triton", ((1, 32), (1, 1)), "fixed", "at most 32 bins along an axis"),
        ("triton", (1,) * 9, "adaptive", "at most 8 levels, got 9"),
        ("cuda", (65,), "adaptive", "at most 64 bins per level"),
        ("cuda", (1,) * 9, "adaptive", "at most 8 levels, got 9"),
    ],
)
def test_larger_pyramids_are_refused(backend: str, bins: tuple[int, ...], windows: str, limit: str) -> None:
    x = torch.randn(1, 2, 70, 70, device=DEVICE)
    with pytest.raises(BackendError, match=limit):
        pyramid_pool(x, bins, windows=windows, backend=backend)
    torch.testing.assert_close(
        pyramid_pool(x, bins, windows=windows), pyramid_pool(x, bins, windows=windows, backend="reference")
    )
