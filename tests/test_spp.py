"""YOLO's SPP and SPPF: the modules beside their plain form, and those of ultralytics and others fused.

Their classes stand here in our own words, under their own names; ultralytics' own networks come last.
"""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyramid_kernels as pk
from pyramid_kernels.fuse import SPPFForward, SPPForward, registry
from pyramid_kernels.nn import SPP, SPPF, ReferenceSPP, ReferenceSPPF
from tests import third_party_yolo as user
from tests.kernels import DEVICE

X = torch.randn(2, 8, 15, 14, generator=torch.Generator().manual_seed(0))

MODULES: dict[str, Callable[..., Any]] = {
    "spp": lambda **kw: SPP(8, 6, **kw),
    "spp-two": lambda **kw: SPP(8, 6, (3, 7), **kw),
    "sppf": lambda **kw: SPPF(8, 6, **kw),
    "sppf-yolo26": lambda **kw: SPPF(8, 8, 5, 3, True, activation=False, **kw),
    "sppf-two-of-3": lambda **kw: SPPF(8, 6, 3, 2, True, **kw),
}

THEIRS: dict[str, Callable[[], Any]] = {
    "spp": lambda: user.SPP(8, 6),
    "sppf": lambda: user.SPPF(8, 6),
    "sppf-shortcut": lambda: user.SPPF(8, 8, 3, 2, True),
    "sppf-old": lambda: user.older_sppf(8, 6),
    "yolox": lambda: user.SPPBottleneck(8, 6),
    "mmdet": lambda: user.PoolingsBottleneck(8, 6),
}


@pytest.fixture(autouse=True)
def under_their_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes stand where their libraries have them; adapters of this test only."""
    registry.load_libraries()
    monkeypatch.setattr(registry, "adapters", dict(registry.adapters))
    places = {
        ("ultralytics.nn.modules.block", "SPP"): user.SPP,
        ("models.common", "SPPF"): user.SPPF,
        ("yolox.models.network_blocks", "SPPBottleneck"): user.SPPBottleneck,
        ("mmdet.models.backbones.csp_darknet", "SPPBottleneck"): user.PoolingsBottleneck,
    }
    for (name, attribute), cls in places.items():
        module = ModuleType(name)
        setattr(module, attribute, cls)
        monkeypatch.setitem(sys.modules, name, module)


def step(module: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, every gradient and every buffer after one step."""
    x = x.clone().requires_grad_()
    y = module(x)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [y, *torch.autograd.grad(y, [x, *parameters], dy), *module.buffers()]


def assert_same(ours: nn.Module, unfused: nn.Module, x: Tensor = X) -> None:
    for a, b in zip(step(ours, x), step(unfused, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "composed"])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", list(MODULES))
def test_agrees_with_its_plain_form(name: str, train: bool, backend: str) -> None:
    module = MODULES[name](backend=backend).train(train)
    unfused = module.to_reference()
    assert type(unfused) in (ReferenceSPP, ReferenceSPPF) and list(unfused.state_dict()) == list(module.state_dict())
    assert module.why_original(X) is None
    for x in (X, X.contiguous(memory_format=torch.channels_last)):
        assert_same(copy.deepcopy(module), copy.deepcopy(unfused), x)


@pytest.mark.parametrize("name", ["spp-two", "sppf-two-of-3"])
def test_agrees_on_kernels(name: str) -> None:
    x = X[:, :, :6, :5].contiguous().to(DEVICE)
    module = MODULES[name](backend="triton").to(DEVICE)
    assert_same(module, module.to_reference(), x)


def test_keys_are_those_of_ultralytics() -> None:
    keys = [
        "conv.weight",
        *[f"bn.{k}" for k in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")],
    ]
    for module in (SPP(8, 6), SPPF(8, 6), user.SPPF(8, 6)):
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
        assert_same(module, module.to_reference(), tied)
    (y, dx, *_), (yf, dxf, *_) = step(spp, tied), step(sppf, tied)
    assert torch.equal(y, yf) and not torch.allclose(dx, dxf)
    (_, dx, *_), (_, dxf, *_) = step(spp, X), step(sppf, X)
    torch.testing.assert_close(dx, dxf)


@pytest.mark.parametrize("name", [n for n in THEIRS if "spp" in n])
def test_from_reference(name: str) -> None:
    theirs = THEIRS[name]().eval()
    ours = (SPP if name == "spp" else SPPF).from_reference(theirs, backend="reference")
    assert_same(ours, theirs)
    assert all(p is not q for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    other = SPPF if name == "spp" else SPP
    with pytest.raises(ValueError, match=f"module must be ultralytics' {other.__name__}, got a .*SPPF?: m is"):
        other.from_reference(theirs)


@pytest.mark.parametrize("folded", [False, True], ids=["trained", "folded"])
@pytest.mark.parametrize("name", list(THEIRS))
def test_fuses_and_undoes_exactly(name: str, folded: bool) -> None:
    """``folded``: ultralytics' ``model.fuse()`` has taken the norms away and set an own forward on every Conv."""
    model = nn.Sequential(THEIRS[name]()).eval()
    pool, cls = model[0], type(model[0])
    pool.f, pool.i, pool.type, pool.np = -1, 9, "SPPF", 42
    if folded:
        for conv in [m for m in model.modules() if isinstance(m, user.Conv)]:
            conv.fold_()
    unfused, expected, keys = copy.deepcopy(model), model(X), list(model.state_dict())
    report = pk.fuse_(model, backend="reference", example_input=X, strict=True)
    assert [e.path for e in report.fused] == ["0"] and "max_pool_pyramid: reference" in report.fused[0].detail
    assert isinstance(pool, cls) and isinstance(pool, SPPForward) and list(model.state_dict()) == keys
    assert (pool.f, pool.i, pool.type, pool.np) == (-1, 9, "SPPF", 42)
    assert torch.equal(model(X), expected)
    assert_same(model, unfused)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other[0]) is type(pool) and torch.equal(other(X), expected)
    assert pk.unfuse_(model) == ["0"] and type(pool) is cls and torch.equal(model(X), expected)


def test_folding_after_fusing() -> None:
    model = nn.Sequential(user.SPPF(8, 8, shortcut=True)).eval()
    expected = model(X)
    pk.fuse_(model, backend="reference")
    model[0].cv1.fold_(), model[0].cv2.fold_()
    torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-4)


def test_hooks_of_the_layers_run_and_those_of_the_pools_keep_the_own_forward() -> None:
    model = nn.Sequential(user.SPPF(8, 6))
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


def test_checking_a_class_of_theirs_runs_no_hooks() -> None:
    model = nn.Sequential(user.SPPF(8, 6))
    model[0].cv1.register_forward_hook(lambda *_: pytest.fail("the hook ran"))
    (entry,) = pk.fuse_(model, backend="reference").entries
    assert not entry.fused and "a child has hooks" in entry.detail


def test_compiles_whole() -> None:
    for module in (SPP(8, 6, backend="composed").eval(), SPPF(8, 8, shortcut=True, backend="composed")):
        compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(X), module(X))


def own_forward(m: Any) -> None:
    m.forward = lambda x: m.cv1(x)


#: Each differs from what is fused by something that weights and keys do not show.
DECLINED: list[tuple[str, Callable[[Any], Any], str]] = [
    ("spp", lambda m: m.m.__setitem__(1, nn.MaxPool2d(9, 2, 4)), "m.1 has stride=2, not 1"),
    ("spp", lambda m: m.m.__setitem__(1, nn.MaxPool2d(9, 1, 3)), "m.1 has padding=3, not 4"),
    ("spp", lambda m: m.m.__setitem__(1, nn.MaxPool2d((9, 5), 1, (4, 2))), "m.1 has kernel_size=(9, 5), not 9"),
    ("spp", lambda m: m.m.__setitem__(1, nn.AvgPool2d(9, 1, 4)), "m.1 is a AvgPool2d, not a MaxPool2d"),
    ("spp", lambda m: m.m.__setitem__(1, nn.MaxPool2d(9, 1, 4, ceil_mode=True)), "m.1 has an even window, ceil_mode"),
    ("spp", lambda m: setattr(m, "m", nn.ModuleList(list(m.m)[::-1])), "m pools [13, 9, 5], which do not ascend"),
    ("spp", lambda m: setattr(m, "m", nn.ModuleList()), "m is not a ModuleList of pools"),
    ("spp", lambda m: setattr(m, "cv3", nn.Identity()), "it holds ['cv1', 'cv2', 'm', 'cv3']"),
    ("sppf", lambda m: setattr(m, "m", nn.MaxPool2d(5, 1, 2, dilation=2)), "m has dilation=2, not 1"),
    ("sppf", lambda m: setattr(m, "m", nn.MaxPool2d(4, 1, 2)), "m has an even window"),
    ("sppf", lambda m: setattr(m, "n", 0), "n is 0, not a count of pools"),
    ("sppf", lambda m: setattr(m, "cv1", nn.Identity()), "cv1 holds no convolution"),
    ("sppf", own_forward, "this instance has its own forward"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "reason"), DECLINED)
def test_declines_other_structures(name: str, change: Callable[[Any], Any], reason: str) -> None:
    module = THEIRS[name]()
    cls = type(module)
    change(module)
    (entry,) = pk.fuse_(module, backend="reference").entries
    assert not entry.fused and reason in entry.detail and type(module) is cls


def test_declines_yolov4s_order_under_known_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a subclass, by its forward; under the known class's own name, by its results; elsewhere, as a look-alike."""
    (entry,) = pk.fuse_(user.LargestFirstSPP(8, 6)).entries
    assert "overrides the forward of SPP" in entry.detail
    monkeypatch.setitem(registry.adapters, user.LargestFirstSPP, SPPForward)
    (entry,) = pk.fuse_(user.LargestFirstSPP(8, 6)).entries
    assert "its own forward gives another result" in entry.detail


def test_look_alikes_are_reported() -> None:
    class OwnSPPF(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cv1, self.cv2, self.m = user.Conv(8, 4), user.Conv(16, 6), nn.MaxPool2d(5, 1, 2)

    (entry,) = pk.fuse_(OwnSPPF()).entries
    assert not entry.fused and "look-alike of ultralytics' SPPF" in entry.detail
    assert issubclass(SPPFForward, SPPForward) and "fuse.SPPFForward" in entry.detail


OWN_NETWORKS = """
import os, sys, tempfile
from unittest import mock
os.environ |= {"YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": tempfile.mkdtemp()}
sys.modules |= {"cv2": mock.MagicMock(__spec__=None), "thop": None}  # of images, which no module here is about
import torch
from torch.utils._pytree import tree_leaves
from ultralytics.nn.modules.block import SPP, SPPF
from ultralytics.nn.tasks import DetectionModel
import pyramid_kernels as pk

def agrees(model, place):
    x = torch.rand(1, 3, 320, 320)  # maps of 10 x 10 at stride 32: no window is the whole of one
    with torch.no_grad():
        before = tree_leaves(model.eval()(x))
        assert [row.path for row in pk.fuse_(model, strict=True, backend="composed").fused] == [place]
        torch.testing.assert_close(tree_leaves(model(x)), before)

for name in ("yolov8n", "yolo11n", "yolo26n"):
    agrees(DetectionModel(f"{name}.yaml", verbose=False), "model.9")
    agrees(DetectionModel(f"{name}.yaml", verbose=False).eval().fuse(verbose=False), "model.9")
for module in (SPP(3, 8), SPPF(3, 8)):
    agrees(torch.nn.Sequential(module), "0")
"""


@pytest.mark.skipif(find_spec("ultralytics") is None, reason="needs ultralytics")
def test_ultralytics_own_networks() -> None:
    """In a process of its own: the library changes torch.save, and here its OpenCV is a stand-in."""
    done = subprocess.run([sys.executable, "-c", OWN_NETWORKS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
