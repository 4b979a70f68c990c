"""``separable_pyramid`` against Keras: outputs that Keras itself computed (tests/data/dspp_keras.npz)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pyramid_kernels import functional
from pyramid_kernels.ops._shared.precision import ieee_convolutions
from tests.kernels import DEVICE, backends

DATA = Path(__file__).parent / "data" / "dspp_keras.npz"


def golden(name: str) -> dict[str, Tensor]:
    """Keras's arrays of ``name`` as PyTorch lays them out."""
    with np.load(DATA) as data:
        arrays = {key.split("/")[1]: torch.from_numpy(data[key]) for key in data.files if key.startswith(f"{name}/")}
    return {key: from_keras(key, t).to(DEVICE) for key, t in arrays.items()}


def from_keras(key: str, t: Tensor) -> Tensor:
    """(N, H, W, C) maps -> (N, C, H, W); (kh, kw, C, 1) and (1, 1, C, O) kernels -> (C, 1, kh, kw) and (O, C, 1, 1)."""
    if key.startswith("dw"):
        return t.permute(2, 3, 0, 1)
    if key.startswith("pw"):
        return t.permute(3, 2, 0, 1)
    return t.permute(0, 3, 1, 2) if t.dim() == 4 else t


#: Keras's own sizes take Triton's interpreter many seconds.
BACKENDS = [
    pytest.param(b, marks=[pytest.mark.slow] if b == "triton" and DEVICE == "cpu" else [])
    for b in ("reference", *backends("separable_pyramid"))
]


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_keras(backend: str) -> None:
    given = golden("dspp_12x16")
    depthwise, pointwise, bias = ([given[f"{kind}{i}"] for i in range(4)] for kind in ("dw", "pw", "b"))
    with ieee_convolutions():
        y = functional.separable_pyramid(given["x"], (2, 4, 6, 8), depthwise, pointwise, bias, backend=backend)
    torch.testing.assert_close(y, given["y"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", backends("separable_pyramid"))
def test_gradients_one_at_a_time(backend: str) -> None:
    """Whatever is frozen, the others get the gradients that they get together; one level has no bias."""
    torch.manual_seed(0)
    x, depthwise = torch.randn(1, 3, 4, 4, device=DEVICE), torch.randn(2, 3, 1, 3, 3, device=DEVICE)
    pointwise, bias = torch.randn(2, 5, 3, 1, 1, device=DEVICE), torch.randn(5, device=DEVICE)
    leaves = [x, depthwise, pointwise, bias]

    def gradients(wanted: list[int]) -> list[Tensor]:
        given = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(leaves)]
        y = functional.separable_pyramid(given[0], (1, 2), [*given[1]], [*given[2]], [None, given[3]], backend=backend)
        return list(torch.autograd.grad(y.square().sum(), [given[i] for i in wanted]))

    for i, together in enumerate(gradients([0, 1, 2, 3])):
        torch.testing.assert_close(gradients([i])[0], together, rtol=0, atol=0)


def test_grids_are_windows_not_sizes() -> None:
    assert functional.pyramid_grids((2, 4, 6, 8), (12, 16), "fixed") == [(2, 2), (4, 4), (6, 8), (12, 8)]
