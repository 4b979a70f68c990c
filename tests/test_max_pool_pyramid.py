"""What the oracle's data do not show of ``max_pool_pyramid``: NaN, infinity, defaults, and SPPF beside SPP."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_kernels.functional import max_pool_pyramid
from tests.kernels import DEVICE, backends
from tests.marks import KERNELS

BACKENDS = ("reference", *backends("max_pool_pyramid"))


def tied(*shape: int, channels_last: bool = False) -> Tensor:
    """Few values, so that most windows hold several maxima."""
    x = torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(0)).float().to(DEVICE)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def gradient(y: Tensor, x: Tensor) -> Tensor:
    dy = torch.randint(-3, 4, y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return torch.autograd.grad(y, x, dy)[0]


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("cascade", [False, True], ids=["parallel", "cascade"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_and_infinity_as_pytorch(backend: str, cascade: bool, channels_last: bool) -> None:
    """NaN takes every window that holds it, the last one its gradient; a window of -inf has a first element too."""
    x = tied(1, 4, 7, 6, channels_last=channels_last)
    x[0, 0, 2, 3] = x[0, 0, 3, 1] = x[0, 1, 0, 0] = float("nan")
    x[0, 2], x[0, 3, 3, 2] = float("-inf"), float("inf")
    x.requires_grad_()
    sizes = (3, 3) if cascade else (3, 5)
    maps = [x]
    for k in sizes:
        maps.append(F.max_pool2d(maps[-1] if cascade else x, k, 1, k // 2))
    y, expected = max_pool_pyramid(x, sizes, cascade=cascade, backend=backend), torch.cat(maps, 1)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(gradient(y, x), gradient(expected, x), rtol=0, atol=0)
    with torch.no_grad():
        y = max_pool_pyramid(x, sizes, cascade=cascade, backend=backend)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


def test_defaults_are_spp_and_sppf() -> None:
    """Equal values, but of equal maxima another one takes the gradient."""
    x = tied(1, 3, 14, 15).requires_grad_()
    spp, sppf = max_pool_pyramid(x), max_pool_pyramid(x, cascade=True)
    assert torch.equal(spp, max_pool_pyramid(x, (5, 9, 13))) and torch.equal(spp, sppf)
    assert torch.equal(sppf, max_pool_pyramid(x, (5, 5, 5), cascade=True))
    assert not torch.equal(gradient(spp, x), gradient(sppf, x))
    descending = max_pool_pyramid(x, order="descending")
    assert torch.equal(descending, torch.cat(spp.chunk(4, 1)[::-1], 1))


@pytest.mark.parametrize("backend", KERNELS)
def test_one_byte_is_kept_per_level_and_none_without_a_gradient(backend: str) -> None:
    kept: list[Tensor] = []
    x = tied(1, 3, 6, 5)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        max_pool_pyramid(x, (3, 5), backend=backend)
        assert not kept
        max_pool_pyramid(x.requires_grad_(), (3, 5), backend=backend)
    assert sum(t.nbytes for t in kept) == 2 * x.numel()


def test_each_level_of_the_composed_form_is_made_of_the_one_before() -> None:
    """Without a gradient, at every step between two windows, wider than the map too."""
    for sizes in ((1, 3, 15), (3, 5, 13), (9,), (7, 21)):
        for channels_last in (False, True):
            x = tied(2, 3, 9, 8, channels_last=channels_last)
            y = max_pool_pyramid(x, sizes, backend="composed")
            assert torch.equal(y, max_pool_pyramid(x, sizes, backend="reference"))
            assert y.stride() == max_pool_pyramid(x, sizes, backend="reference").stride()
