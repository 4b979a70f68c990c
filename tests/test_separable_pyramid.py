"""``separable_pyramid``, DSPP and MDSPP against outputs that Keras itself computed (tests/data/dspp_keras.npz)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyramid_kernels import functional
from pyramid_kernels.nn import DSPP, MDSPP
from pyramid_kernels.nn.base import Fused
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


def test_grids_are_windows_not_sizes() -> None:
    assert functional.pyramid_grids((2, 4, 6, 8), (12, 16), "fixed") == [(2, 2), (4, 4), (6, 8), (12, 8)]


def filled(module: DSPP | MDSPP, given: dict[str, Tensor]) -> DSPP | MDSPP:
    """``module`` with Keras's weights; those of its pairs are numbered after the levels'."""
    convolutions = [*module.levels, *getattr(module, "pairs", [])]
    for i, (depthwise, pointwise) in enumerate(convolutions):  # type: ignore[misc]
        depthwise.weight.data.copy_(given[f"dw{i}"])
        pointwise.weight.data.copy_(given[f"pw{i}"])
        if pointwise.bias is not None:
            pointwise.bias.data.copy_(given[f"b{i}"])
    return module.to(DEVICE)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["dspp", "mdspp"])
def test_modules_equal_keras(name: str, backend: str) -> None:
    given = golden(f"{name}_12x16")
    module = DSPP(16, 8, backend=backend) if name == "dspp" else MDSPP(16, 16, backend=backend)
    filled(module, given)
    forms: list[nn.Module] = [module, module.to_reference()]
    assert [isinstance(m, Fused) for m in forms] == [True, False]
    for form in forms:
        with ieee_convolutions(), torch.no_grad():
            torch.testing.assert_close(form(given["x"]), given["y"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("module", [DSPP(3, 4), MDSPP(3, 4)], ids=["dspp", "mdspp"])
def test_maps_smaller_than_a_bin(module: DSPP | MDSPP) -> None:
    for form in (module, module.to_reference()):
        with pytest.raises(ValueError, match="gives a window of size 0 for bin 8 on a map of size 7"):
            form(torch.zeros(1, 3, 8, 7))
