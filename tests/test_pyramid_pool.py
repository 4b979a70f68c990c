"""Maxima of ``pyramid_pool`` where the oracle's distinct data does not go: ties and NaN."""

from __future__ import annotations

import pytest
import torch

from pyramid_kernels.functional import pyramid_pool
from tests.kernels import DEVICE

NAN = float("nan")


def pooled(x: torch.Tensor, backend: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Result and gradient, a different incoming gradient for every cell."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = pyramid_pool(x, (1, 2, 3), mode="max", backend=backend)
    weights = torch.arange(1.0, y.numel() + 1, device=x.device).view(y.shape)
    return y.detach(), torch.autograd.grad(y, x, weights)[0]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("nan", [0, 1, 5])
def test_first_maximum_and_nan_are_those_of_pytorch(channels_last: bool, nan: int) -> None:
    generator = torch.Generator().manual_seed(nan)
    x = torch.randint(-1, 2, (2, 3, 7, 5), generator=generator).float()
    x.view(-1)[torch.randperm(x.numel(), generator=generator)[:nan]] = NAN
    x = x.to(DEVICE)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    for ours, theirs in zip(pooled(x, "triton"), pooled(x, "reference"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_infinities_are_ordinary_values() -> None:
    x = torch.full((1, 2, 4, 4), -float("inf"), device=DEVICE)
    x[0, 1, 2, 3] = float("inf")
    for ours, theirs in zip(pooled(x, "triton"), pooled(x, "reference"), strict=True):
        assert torch.equal(ours, theirs)
