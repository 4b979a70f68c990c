"""What the oracle does not ask of ``pyramid_project`` on CUDA: launches of long pyramids, IEEE products."""

from dataclasses import replace

import pytest
import torch

from pyramid_kernels.functional import pyramid_project
from pyramid_kernels.ops._shared.precision import ieee_convolutions
from pyramid_kernels.ops.pyramid_project.spec import CASES, launches
from pyramid_kernels.testing import count_launches
from pyramid_kernels.verification import oracle
from tests.kernels import DEVICE
from tests.marks import needs_cuda

pytestmark = needs_cuda


def test_the_spec_counts_the_launches_of_long_pyramids() -> None:
    case = replace(CASES[1], args=CASES[1].args | {"grids": [(1, 1)] * 17})
    pooled, weights = (torch.randn(size, device=DEVICE, requires_grad=True) for size in ((1, 4, 17), (17, 2, 4)))
    with count_launches() as forward:
        y = pyramid_project(pooled, [(1, 1)] * 17, list(weights), backend="cuda")
    with count_launches() as backward:
        y.sum().backward()
    for counted, listed in zip((forward, backward), launches(case, False, "cuda"), strict=True):
        assert {kernel: count for (kernel, _), count in counted.items()} == listed


@pytest.mark.parametrize("channels_last", [False, True])
def test_products_follow_the_precision_of_convolutions(channels_last: bool) -> None:
    case = next(case for case in CASES if case.id == "deep-130")
    rounded = oracle.check("pyramid_project", case, "cuda", torch.float32, channels_last, device=DEVICE)
    with ieee_convolutions():
        ieee = oracle.check("pyramid_project", case, "cuda", torch.float32, channels_last, device=DEVICE)
    assert not ieee.failures()
    assert not torch.equal(rounded.run.results["y"], ieee.run.results["y"])
