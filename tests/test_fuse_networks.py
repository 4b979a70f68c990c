"""``fuse_`` on exchanges and gates of networks: what single ones do beside the contract of every adapter."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import pyramid_kernels as pk
from pyramid_kernels.nn import HRFuse
from tests import third_party as user
from tests.agreement import count_fused
from tests.foreign import build, inputs, timm_module, why_skipped
from tests.libraries import library

pytestmark = pytest.mark.usefixtures("own_adapters")

WIDTHS = (4, 5, 6)


def test_exchanges_of_another_structure() -> None:
    hrnet = library("timm.models.hrnet")
    one_branch = hrnet.HighResolutionModule(1, hrnet.BasicBlock, (1,), [4], (4,), "SUM")
    assert "are not a list" in why_skipped(one_branch)


def test_the_official_pose_network_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    file: Any = ModuleType("models.pose_hrnet")
    file.HighResolutionModule = user.PoseModule
    monkeypatch.setitem(sys.modules, file.__name__, file)
    (entry,) = pk.fuse_(user.PoseModule(WIDTHS), backend="reference").fused
    assert entry.detail == "upsample_merge: reference"


def test_nearest_and_bilinear_exchanges_have_the_same_keys() -> None:
    pose, other = user.PoseModule(WIDTHS), user.SegmentationModule(WIDTHS)
    assert pose.state_dict().keys() == other.state_dict().keys()
    bilinear = user.BilinearPoseModule(WIDTHS)
    pk.register_adapter(user.BilinearPoseModule, pk.fuse.HighResolutionModuleForward)
    assert "mode=bilinear" in why_skipped(bilinear).replace("'", "")


def test_maps_that_do_not_double_are_refused_as_before() -> None:
    module = timm_module().eval()
    pk.fuse_(module, strict=True)
    maps = [torch.randn(2, c, n, n) for c, n in zip(WIDTHS, (9, 5, 3), strict=True)]
    assert module.why_original(maps) == "a map is not half as large as the one before"
    with pytest.raises(RuntimeError, match="must match the size of tensor"):
        module(maps)


@pytest.mark.parametrize("corners", [True, False])
def test_official_fuse_layers_become_an_exchange(corners: bool) -> None:
    theirs = user.SegmentationModule(WIDTHS).double().eval()
    theirs.resized = (
        lambda z, like: nn.functional.interpolate(  # type: ignore[method-assign]
            z, size=like.shape[-2:], mode="bilinear", align_corners=corners
        )
    )
    ours = HRFuse.from_reference(theirs.fuse_layers, mode="bilinear", align_corners=corners, backend="reference")
    assert ours.state_dict().keys() == theirs.fuse_layers.state_dict().keys()
    maps = [torch.randn(2, c, 16 >> i, 8 >> i, dtype=torch.float64) for i, c in enumerate(WIDTHS)]
    inner = [branch(m) for branch, m in zip(theirs.branches, maps, strict=True)]
    for a, b in zip(ours(inner), theirs(list(maps)), strict=True):
        torch.testing.assert_close(a, b)


def test_a_whole_hrnet_of_timm() -> None:
    model = library("timm").create_model("hrnet_w18_small", features_only=True).eval()
    x = torch.randn(1, 3, 32, 64)
    expected = model(x)
    report = pk.fuse_(model, strict=True)
    assert {entry.cls for entry in report.fused} == {"HighResolutionModule"} and not report.skipped
    for a, b in zip(model(x), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("named", [("fsp", "fcp"), ("fcp",)])
def test_arguments_by_name_compile(named: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    gate = build("coincheung-ffm").eval()
    maps = inputs(gate)
    expected = gate(*maps)
    by_name = {name: m for name, m in zip(("fsp", "fcp"), maps, strict=True) if name in named}
    by_position = maps[: 2 - len(named)]
    pk.fuse_(gate, backend="reference")
    runs = count_fused(type(gate), monkeypatch)
    torch._dynamo.reset()
    compiled = torch.compile(gate, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*by_position, **by_name), expected)
    assert len(runs) == 1


def test_maps_of_several_sizes_fail_as_they_do_unfused() -> None:
    gate = build("coincheung-ffm")
    fine, coarse = inputs(gate)
    pk.fuse_(gate, backend="reference")
    assert gate.why_original([fine, coarse[:, :, :3]]) == "the maps differ in size"
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        gate(fine, coarse[:, :, :3])
