"""``functional.aspp``, a composite: beside the chain that it stands for, with and without an image-level branch."""

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_kernels.functional import aspp
from pyramid_kernels.ops._shared.precision import ieee_convolutions
from pyramid_kernels.testing import count_launches
from pyramid_kernels.verification.errors import Errors, errors, over_limit
from tests.kernels import DEVICE, backends

#: (N, C, H, W), channels of every branch, dilations, channels of the image-level branch, kernel of the projection.
CASES: dict[str, tuple[tuple[int, ...], int, tuple[int, ...], int, int, bool]] = {
    "torchvision-9x11": ((2, 20, 9, 11), 8, (2, 4, 12), 8, 1, False),
    "mmseg-pool-first-3x3": ((2, 10, 6, 5), 6, (2, 3), 4, 3, True),
    "no-pool": ((1, 12, 7, 5), 6, (2,), 0, 1, False),
    "one-pixel": ((2, 8, 1, 1), 5, (6,), 5, 1, False),
}
BACKENDS = ("reference", *backends("dilated_branches"))


def arguments(name: str, seed: int) -> dict[str, Any]:
    """In float64; norms keep what they give far from zero, so that every ReLU's mask is certain."""
    (n, c, h, w), o, rates, p, k, pool_first = CASES[name]
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=draw)

    def norm(channels: int) -> tuple[Any, ...]:
        beta = 6.0 * (1 - 2 * (torch.arange(channels) % 2)).double()
        return normal(channels) / 8 + 1, beta, normal(channels) / 8, normal(channels) ** 2 + 0.5, 1e-3

    weights = [normal(o, c, kernel, kernel) / (c * kernel**2) ** 0.5 for kernel in (1, *(3 for _ in rates))]
    width = o * len(weights) + p
    given = {
        "x": normal(n, c, h, w), "weights": weights, "dilations": (1, *rates), "norms": [norm(o) for _ in weights],
        "project_weight": normal(o, width, k, k) / (width * k**2) ** 0.5, "project_norm": norm(o),
    }  # fmt: skip
    pool = {"pool_weight": normal(p, c, 1, 1) / c**0.5, "pool_norm": norm(p), "pool_first": pool_first} if p else {}
    return given | pool


def chain(given: dict[str, Any]) -> Tensor:
    """As published: the image-level branch is resized to the map and joined to the others."""

    def unit(x: Tensor, weight: Tensor, dilation: int, norm: Any) -> Tensor:
        gamma, beta, mean, var, eps = norm
        z = F.conv2d(x, weight, padding=weight.shape[2] // 2 * dilation, dilation=dilation)
        return torch.relu(F.batch_norm(z, mean, var, gamma, beta, eps=eps))

    x = given["x"]
    maps = [unit(x, *branch) for branch in zip(given["weights"], given["dilations"], given["norms"], strict=True)]
    if "pool_weight" in given:
        pooled = unit(x.mean((2, 3), keepdim=True), given["pool_weight"], 1, given["pool_norm"])
        maps.insert(0 if given["pool_first"] else len(maps), pooled.expand(-1, -1, *x.shape[2:]))
    return unit(torch.cat(maps, 1), given["project_weight"], 1, given["project_norm"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_chain(name: str, backend: str) -> None:
    """Results and gradients of x and of both convolutions' weights, on channels_last maps."""

    def step(dtype: torch.dtype, fn: Any, seed: int = 0) -> list[Tensor]:
        given = torch.utils._pytree.tree_map_only(Tensor, lambda t: t.to(DEVICE, dtype), arguments(name, seed))
        given["x"] = given["x"].contiguous(memory_format=torch.channels_last)
        leaves = [given["x"], given["project_weight"], *given["weights"]]
        for leaf in leaves:
            leaf.requires_grad_()
        y = fn(given)
        return [y.detach(), *torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).to(y).view_as(y)).sum(), leaves)]

    with count_launches() as launches, ieee_convolutions():
        ours = step(torch.float32, lambda given: aspp(**given, backend=backend))
    assert bool(launches) == (backend not in ("reference", "composed"))
    # In one draw the chain's sums of few terms may be lucky.
    draws = [zip(step(torch.float32, chain, seed), step(torch.float64, chain, seed), strict=True) for seed in range(4)]
    chains = [functools.reduce(Errors.worse, (errors(*pair) for pair in pairs)) for pairs in zip(*draws, strict=True)]
    for got, exact, limit in zip(ours, step(torch.float64, chain), chains, strict=True):
        assert over_limit(got, exact, limit) <= 1
