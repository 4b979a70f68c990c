"""``fuse_`` on gates of repositories and libraries: those it takes, and those it leaves alone, with the reason."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import pyramid_kernels as pk
from pyramid_kernels.fuse import registry
from pyramid_kernels.nn.bisenet import ARMForward, FFMForward
from tests import third_party_gates as like
from tests.agreement import count_fused
from tests.test_gates import assert_same
from tests.test_nn import freeze_norms

NAMES = {
    ("lib.models.bisenetv1", "AttentionRefinementModule"): like.CoinCheungARM,
    ("lib.models.bisenetv1", "FeatureFusionModule"): like.CoinCheungFFM,
    ("models.model_stages", "FeatureFusionModule"): like.STDCSegFFM,
    ("model.build_BiSeNet", "AttentionRefinementModule"): like.OooARM,
    ("model.build_BiSeNet", "FeatureFusionModule"): like.OooFFM,
    ("mmseg.models.backbones.bisenetv1", "AttentionRefinementModule"): like.MMSegARM,
    ("mmseg.models.backbones.bisenetv1", "FeatureFusionModule"): like.ReluGateFFM,
    ("mmseg.models.backbones.stdc", "FeatureFusionModule"): like.MMSegSTDCFFM,
}
GATES: dict[str, Callable[[], nn.Module]] = {
    "coincheung-arm": lambda: like.CoinCheungARM(6, 8),
    "coincheung-ffm": lambda: like.CoinCheungFFM(9, 8),
    "stdc-seg-ffm": lambda: like.STDCSegFFM(9, 8),
    "ooooverflow-arm": lambda: like.OooARM(6, 6),
    "ooooverflow-ffm": lambda: like.OooFFM(5, 9),
    "mmseg-arm": lambda: like.MMSegARM(6, 8),
    "mmseg-stdc-ffm": lambda: like.MMSegSTDCFFM(9, 8),
}


@pytest.fixture(autouse=True)
def under_their_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes stand where their repositories have them; adapters of this test only."""
    registry.load_libraries()
    for registered in ("adapters", "notes"):
        monkeypatch.setattr(registry, registered, dict(getattr(registry, registered)))
    modules = {name: ModuleType(name) for name, _ in NAMES}
    for (name, cls), own in NAMES.items():
        setattr(modules[name], cls, own)
        monkeypatch.setitem(sys.modules, name, modules[name])


def build(gate: nn.Module) -> tuple[Any, list[torch.Tensor]]:
    """In float64, with random affines and statistics, and its maps."""
    generator = torch.Generator().manual_seed(0)
    for norm in gate.double().modules():
        if isinstance(norm, nn.BatchNorm2d):
            for t in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                t.copy_(0.5 + torch.rand(t.shape, generator=generator))
    widths = (5, 4) if hasattr(gate, "convblk") or hasattr(gate, "convblock") or hasattr(gate, "conv0") else (6,)
    return gate, [torch.randn(3, c, 6, 7, generator=generator).double() for c in widths]


def why_skipped(gate: nn.Module) -> str:
    report = pk.fuse_(nn.Sequential(gate), backend="reference")
    assert not report.fused and len(report.skipped) == 1, report
    return report.skipped[0].detail


@pytest.mark.parametrize("mode", ["train", "eval", "frozen"])
@pytest.mark.parametrize("name", GATES)
def test_fused(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, maps = build(GATES[name]())
    keys, cls = list(gate.state_dict()), type(gate)
    assert pk.fuse_(gate, backend="composed").fused
    assert isinstance(gate, cls) and isinstance(gate, ARMForward | FFMForward) and list(gate.state_dict()) == keys
    freeze_norms(gate.train(), 1) if mode == "frozen" else gate.train(mode == "train")
    runs = count_fused(type(gate), monkeypatch)
    assert_same(gate, maps)
    # In training the norm of a refinement's gate takes statistics of the batch; ooooverflow's is never called.
    assert len(runs) == (mode != "train" or name not in ("coincheung-arm", "mmseg-arm"))
    assert pk.unfuse_(gate) == [""] and type(gate) is cls


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("named", [("fsp", "fcp"), ("fcp",)])
def test_arguments_by_name_run_the_ops(named: tuple[str, ...], compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, maps = build(like.CoinCheungFFM(9, 8).eval())
    expected = gate(*maps)
    by_name = {name: m for name, m in zip(("fsp", "fcp"), maps, strict=True) if name in named}
    by_position = maps[: 2 - len(named)]
    pk.fuse_(gate, backend="reference")
    runs = count_fused(type(gate), monkeypatch)
    torch._dynamo.reset()
    call = torch.compile(gate, fullgraph=True, backend="eager") if compiled else gate
    torch.testing.assert_close(call(*by_position, **by_name), expected)
    assert len(runs) == 1
    with pytest.raises(TypeError, match="other"):
        gate(*maps, other=maps[0])


def test_an_unused_norm_stays_unused() -> None:
    """The norm of ooooverflow's gate is in the state and is never called; where it is called, the gate is another."""
    gate, maps = build(like.OooARM(6, 6))
    gate.bn.weight.data.fill_(float("nan"))
    pk.fuse_(gate, backend="reference")
    assert gate(*maps).isfinite().all() and "bn.running_mean" in gate.state_dict()
    assert "overrides the forward" in why_skipped(build(like.NormedARM(6, 6))[0])


@pytest.mark.parametrize("gain", [None, 0.01, 0.0])
@pytest.mark.parametrize("other", [like.ReluARM, like.WindowARM, like.NormedARM])
def test_same_keys_and_shapes_of_another_function(
    other: type[nn.Module], gain: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the name of a known class only its results tell: a ReLU before the sigmoid, other means, a norm called.

    A gate whose norm has hardly any gain is the same half whatever it is made of.
    """
    name = "model.build_BiSeNet" if other is like.NormedARM else "lib.models.bisenetv1"
    monkeypatch.setattr(sys.modules[name], "AttentionRefinementModule", other)
    gate = build(other(6, 6))[0].float()
    if gain is not None:
        norm = gate.bn if other is like.NormedARM else gate.bn_atten
        norm.weight.data.fill_(gain)
        norm.bias.data.zero_()
    state, random = copy.deepcopy(gate.state_dict()), torch.get_rng_state()
    assert "its own forward gives another result" in why_skipped(gate)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(state.values(), gate.state_dict().values(), strict=True))


def test_maps_concatenated_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "overrides the forward" in why_skipped(like.ContextFirstFFM(9, 8))
    monkeypatch.setattr(sys.modules["lib.models.bisenetv1"], "FeatureFusionModule", like.ContextFirstFFM)
    assert "its own forward" in why_skipped(build(like.ContextFirstFFM(8, 8))[0])


def test_maps_of_several_sizes_fail_as_they_do_unfused() -> None:
    gate, (fine, coarse) = build(like.CoinCheungFFM(9, 8))
    pk.fuse_(gate, backend="reference")
    assert gate.why_original([fine, coarse[:, :, :3]]) == "the maps differ in size"
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        gate(fine, coarse[:, :, :3])


#: A change of a gate that is fused without it, and what is said then.
DECLINED: list[tuple[str, Callable[[Any], Any], str]] = [
    ("coincheung-arm", lambda m: setattr(m, "conv_atten", nn.Conv2d(8, 8, 3, padding=1)), "kernel_size=(3, 3), not 1"),
    ("coincheung-arm", lambda m: setattr(m, "conv_atten", nn.Conv2d(8, 8, 1, groups=2)), "groups=2"),
    ("coincheung-arm", lambda m: setattr(m, "conv_atten", nn.Conv2d(8, 1, 1)), "gives 1 gates, and the map has 8"),
    ("coincheung-arm", lambda m: setattr(m, "bn_atten", nn.GroupNorm(2, 8)), "a norm is a GroupNorm, not a BatchNorm"),
    ("coincheung-arm", lambda m: delattr(m, "bn_atten"), "bn_atten is not a Module"),
    ("coincheung-ffm", lambda m: setattr(m.convblk, "relu", nn.LeakyReLU()), "not a convolution, a norm and a ReLU"),
    ("coincheung-ffm", lambda m: delattr(m, "conv"), "conv is missing, where a Conv2d should be"),
    ("coincheung-ffm", lambda m: setattr(m, "convblk", like.ConvBNReLU(9, 7, 1, 0)), "takes 8 channels, and 7 come in"),
    ("stdc-seg-ffm", lambda m: setattr(m, "conv2", nn.Conv2d(3, 8, 1)), "conv2 takes 3 channels, and 2 come in"),
    ("ooooverflow-ffm", lambda m: setattr(m.convblock, "conv1", nn.Conv2d(9, 5, 5, padding=2)), "kernel_size=(5, 5)"),
    ("mmseg-arm", lambda m: setattr(m.atten_conv_layer[1], "activate", nn.ReLU()), "holds ['conv', 'bn', 'activate']"),
    ("mmseg-arm", lambda m: m.atten_conv_layer.__setitem__(0, nn.AdaptiveAvgPool2d(2)), "pools to 2, not to one mean"),
    ("mmseg-arm", lambda m: m.atten_conv_layer.__setitem__(2, nn.Hardsigmoid()), "Hardsigmoid"),
    ("mmseg-stdc-ffm", lambda m: m.attention.__setitem__(1, like.conv_module(8, 2, 1)), "'bn', 'activate'], not"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "reason"), DECLINED)
def test_declines_other_structures(name: str, change: Callable[[Any], Any], reason: str) -> None:
    gate = GATES[name]()
    change(gate)
    assert reason in why_skipped(gate)


def test_a_relu_before_the_sigmoid_is_left_alone() -> None:
    assert why_skipped(like.ReluGateFFM(9, 8)) == "left alone: a ReLU stands before the sigmoid of its gate"


def test_gates_of_libraries_are_left_alone() -> None:
    lraspp = pytest.importorskip("torchvision.models.segmentation.lraspp", reason="needs torchvision")
    smp = pytest.importorskip("segmentation_models_pytorch", reason="needs segmentation_models_pytorch")
    from segmentation_models_pytorch.base.modules import SCSEModule

    assert "weighs another map" in why_skipped(lraspp.LRASPPHead(4, 6, 3, 8))
    assert "gates of channels and of pixels" in why_skipped(SCSEModule(16))
    pan = smp.decoders.pan.decoder.GAUBlock(4, 4)
    assert "weighs another map" in why_skipped(pan)
