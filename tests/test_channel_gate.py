"""Where the oracle's cases of ``channel_gate`` do not go: gradients of some arguments alone."""

from typing import Any

import pytest
import torch

from pyramid_kernels.functional import channel_gate
from pyramid_kernels.testing import count_launches
from tests.kernels import DEVICE
from tests.marks import KERNELS


def arguments(*shape: int, hidden: int, grad: tuple[str, ...]) -> dict[str, Any]:
    """Of a gate with two convolutions; those named in ``grad`` take gradients."""
    generator = torch.Generator().manual_seed(0)
    c = shape[1]
    shapes = {"x": shape, "weight1": (hidden, c), "bias1": (hidden,), "weight2": (c, hidden), "bias2": (c,)}
    made = {name: torch.randn(size, generator=generator, dtype=torch.float64) for name, size in shapes.items()}
    return {name: t.to(DEVICE).requires_grad_(name in grad) for name, t in made.items()} | {"residual": True}


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("grad", [("x",), ("weight1", "bias2"), ("bias1", "weight2")], ids="-".join)
def test_only_the_gradients_that_are_asked_for(backend: str, grad: tuple[str, ...]) -> None:
    given = arguments(2, 6, 5, 3, hidden=3, grad=grad)
    leaves = [given[name] for name in grad]
    expected = torch.autograd.grad(channel_gate(**given, backend="reference").square().sum(), leaves)
    y = channel_gate(**given, backend=backend).square().sum()
    with count_launches() as launches:
        found = torch.autograd.grad(y, leaves)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    kernels = {kernel for kernel, _ in launches}
    assert ("channel_gate_bwd_dx_kernel" in kernels) == ("x" in grad)
    assert ("channel_gate_bwd_dweights_kernel" in kernels) == (grad != ("x",))
