"""What YOLO's pools do beside the contracts of every module and adapter; ultralytics' own networks come last."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import pyramid_kernels as pk
from pyramid_kernels.nn import SPP, SPPF
from tests.foreign import FOREIGN, build
from tests.libraries import ultralytics
from tests.modules import assert_same, step

pytestmark = pytest.mark.usefixtures("own_adapters")

X = torch.randn(2, 8, 15, 14, generator=torch.Generator().manual_seed(0))


def test_keys_are_those_of_ultralytics() -> None:
    keys = [
        "conv.weight",
        *[f"bn.{k}" for k in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")],
    ]
    for module in (SPP(8, 6), SPPF(8, 6), build("ultralytics-sppf")):
        assert list(module.state_dict()) == [f"{layer}.{key}" for layer in ("cv1", "cv2") for key in keys]
    assert (SPP(8, 6).cv1.bn.eps, SPPF(8, 6).cv2.bn.momentum) == (1e-3, 0.03)


def test_spp_and_sppf_have_equal_values_and_other_gradients_on_ties() -> None:
    spp, sppf = SPP(8, 6, backend="composed").eval(), SPPF(8, 6, activation=False, backend="composed").eval()
    spp.cv1.act = nn.Identity()
    with torch.no_grad():
        spp.cv1.conv.weight.copy_(torch.eye(4, 8)[..., None, None])  # keeps equal values equal
    sppf.load_state_dict(spp.state_dict())
    tied = X.mul(2).round()
    for module in (spp, sppf):
        assert_same(step(module, [tied]), step(module.to_reference(), [tied]), 1e-5)
    (y, dx, *_), (yf, dxf, *_) = step(spp, [tied]).values(), step(sppf, [tied]).values()
    assert torch.equal(y, yf) and not torch.allclose(dx, dxf)
    (_, dx, *_), (_, dxf, *_) = step(spp, [X]).values(), step(sppf, [X]).values()
    torch.testing.assert_close(dx, dxf)


@pytest.mark.parametrize("name", ["ultralytics-spp", "ultralytics-sppf", "ultralytics-sppf-shortcut", "yolov5-sppf"])
def test_from_reference(name: str) -> None:
    theirs = build(name, torch.float32).eval()
    kind, other = (SPP, SPPF) if name == "ultralytics-spp" else (SPPF, SPP)
    ours = kind.from_reference(theirs, backend="reference")
    assert_same(step(ours, [X]), step(theirs, [X]), 1e-5)
    assert all(p is not q for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    with pytest.raises(ValueError, match=f"module must be ultralytics' {other.__name__}, got a .*SPPF?: m is"):
        other.from_reference(theirs)


def folded(module: Any) -> Any:
    """Norms in the convolutions and an own forward on every Conv, as ultralytics' ``model.fuse()`` leaves it."""
    for conv in (module.cv1, module.cv2):
        conv.conv = nn.utils.fuse_conv_bn_eval(conv.conv, conv.bn)
        del conv.bn
        conv.forward = conv.forward_fuse
    return module


@pytest.mark.parametrize("name", ["ultralytics-spp", "ultralytics-sppf", "ultralytics-sppf-shortcut"])
def test_folding_before_and_after_fusing(name: str) -> None:
    for first, second in ((folded, fused), (fused, folded)):
        module = build(name, torch.float32).eval()
        expected = module(X)
        second(first(module))
        assert isinstance(module, FOREIGN[name].kind) and module.why_original(X) is None
        for other in (module, copy.deepcopy(module)):
            torch.testing.assert_close(other(X), expected, rtol=1e-4, atol=1e-4)


def fused(module: Any) -> Any:
    (entry,) = pk.fuse_(module, backend="reference", example_input=X, strict=True).fused
    assert "max_pool_pyramid: reference" in entry.detail
    return module


def test_hooks_of_the_layers_run_and_those_of_the_pools_keep_the_own_forward() -> None:
    model = nn.Sequential(build("ultralytics-sppf", torch.float32))
    pk.fuse_(model, backend="reference")
    seen: list[str] = []
    model[0].cv1.conv.register_forward_hook(lambda *_: seen.append("conv"))
    assert model[0].why_original(X) is None
    model(X)
    assert seen == ["conv"]
    model[0].m.register_forward_hook(lambda *_: seen.append("pool"))
    assert "a child has hooks" in model[0].why_original(X)
    model(X)
    assert seen == ["conv", "conv", "pool", "pool", "pool"]


@pytest.mark.parametrize(
    "name,folds",
    [("yolov8n", False), ("yolo11n", True)]
    + [
        pytest.param(*more, marks=pytest.mark.slow)
        for more in (("yolov8n", True), ("yolo11n", False), ("yolo26n", False), ("yolo26n", True))
    ],
)
def test_ultralytics_own_networks(name: str, folds: bool) -> None:
    model = ultralytics("nn.tasks").DetectionModel(f"{name}.yaml", verbose=False).eval()
    if folds:
        model = model.fuse(verbose=False)
    x = torch.rand(1, 3, 320, 320)  # maps of 10 x 10 at stride 32: no window is the whole of one
    with torch.no_grad():
        before = tree_leaves(model(x))
        assert [row.path for row in pk.fuse_(model, strict=True, backend="composed").fused] == ["model.9"]
        torch.testing.assert_close(tree_leaves(model(x)), before)
