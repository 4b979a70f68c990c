"""``fuse_`` on HRNet's exchanges, DeepLab v2's sums and transformers' mobile heads: fused, or left with the reason."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyramid_kernels as pk
from pyramid_kernels.fuse import registry
from pyramid_kernels.nn import HRFuse
from tests import third_party as user
from tests.agreement import assert_agrees, fair_
from tests.repositories import why_skipped

hrnet = pytest.importorskip("timm.models.hrnet", reason="needs timm")
mobilevit = pytest.importorskip("transformers.models.mobilevit.modeling_mobilevit", reason="needs transformers")
from transformers.models.mobilenet_v2 import modeling_mobilenet_v2 as mobilenet  # noqa: E402
from transformers.models.mobilevitv2 import modeling_mobilevitv2 as mobilevitv2  # noqa: E402

WIDTHS = (4, 5, 6)
MOBILEVIT = {"aspp_out_channels": 8, "aspp_dropout_prob": 0.1, "atrous_rates": [2, 3, 4]}


def mobile_vit() -> nn.Module:
    return mobilevit.MobileViTASPP(mobilevit.MobileViTConfig(neck_hidden_sizes=[8, 8, 8, 8, 8, 6, 8], **MOBILEVIT))


def mobile_vit2() -> nn.Module:
    return mobilevitv2.MobileViTV2ASPP(mobilevitv2.MobileViTV2Config(width_multiplier=1 / 64, **MOBILEVIT))


def mobile_net(**settings: Any) -> nn.Module:
    config = mobilenet.MobileNetV2Config(depth_multiplier=1 / 32, num_labels=3, **settings)
    return mobilenet.MobileNetV2DeepLabV3Plus(config)


def timm_module(multi_scale_output: bool = True) -> nn.Module:
    return hrnet.HighResolutionModule(
        3, hrnet.BasicBlock, (1, 1, 1), list(WIDTHS), WIDTHS, "SUM", multi_scale_output=multi_scale_output
    )


class Maps(nn.Module):
    """A pyramid of maps through the module, and everything it gives as one tensor."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.stems = nn.ModuleList(nn.Conv2d(3, c, 3, stride=1 << i, padding=1) for i, c in enumerate(WIDTHS))
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([y.flatten(1) for y in self.module([stem(x) for stem in self.stems])], 1)


#: What is fused, and the channels of the map it takes; 0 for a list of maps.
FUSED: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mobilevit": (mobile_vit, 6),
    "mobilevit-v2": (mobile_vit2, 8),
    "mobilenet-v2": (mobile_net, 16),
    "mobilenet-v2-padded": (lambda: mobile_net(tf_padding=False), 16),
    "timm-hrnet": (timm_module, 0),
    "timm-hrnet-finest": (lambda: timm_module(False), 0),
    "pose-hrnet": (lambda: user.PoseModule(WIDTHS), 0),
    "classifier-module": (lambda: user.ClassifierModule(6, (1, 2, 4), 3), 6),
    "kazuto-aspp-v2": (lambda: user.KazutoASPP(6, 3, (1, 2, 4)), 6),
}


@pytest.fixture(autouse=True)
def under_their_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes stand where their repositories have them; adapters of this test only."""
    registry.load_libraries()
    monkeypatch.setattr(registry, "adapters", dict(registry.adapters))
    pk.register_adapter(user.ResearchASPP, pk.fuse.ASPPForward)
    pk.register_adapter(user.SemsegPPM, pk.fuse.PPMForward)
    for path, name, cls in (
        ("models.pose_hrnet", "HighResolutionModule", user.PoseModule),
        ("models.seg_hrnet", "HighResolutionModule", user.SegmentationModule),
        ("model.deeplab", "Classifier_Module", user.ClassifierModule),
        ("model.deeplab_multi", "Classifier_Module", user.EarlyClassifierModule),
        ("libs.models.deeplabv2", "_ASPP", user.KazutoASPP),
    ):
        module = ModuleType(path)
        setattr(module, name, cls)
        monkeypatch.setitem(sys.modules, path, module)


@pytest.fixture(params=list(FUSED))
def model(request: pytest.FixtureRequest) -> nn.Module:
    make, channels = FUSED[request.param]
    torch.manual_seed(0)
    return Maps(make()) if not channels else nn.Sequential(nn.Conv2d(3, channels, 1), make())


def images() -> Tensor:
    return torch.randn(8, 3, 8, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_agrees(model: Any, train: bool) -> None:
    ours = fair_(model, images())
    unfused = copy.deepcopy(ours)
    (entry,) = pk.fuse_(ours, backend="reference").entries
    assert entry.fused, entry
    assert_agrees(ours.train(train), unfused.train(train), images(), draws=8)


def test_swaps_and_undoes_exactly(model: Any) -> None:
    expected, state = model.eval()(images()), copy.deepcopy(model.state_dict())
    kinds = [type(m) for m in model.modules()]
    pk.fuse_(model, strict=True, example_input=(images(),))
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))
    pk.unfuse_(model)
    assert [type(m) for m in model.modules()] == kinds and torch.equal(model(images()), expected)


def norm_between(m: Any) -> None:
    """The depthwise step of a branch with a norm of its own, as in PaddleSeg and mmsegmentation."""
    depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False)
    m.convs[1][0] = nn.Sequential(depthwise, nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1, bias=False))


def research_aspp() -> nn.Module:
    return user.ResearchASPP(8, (2,), 6)


def semseg_ppm() -> nn.Module:
    return user.SemsegPPM(8, 2, (1, 2))


def activation(path: str, act: nn.Module) -> Callable[[Any], Any]:
    return lambda m: setattr(m.get_submodule(path), "activation", act)


def silent_third(m: Any) -> None:
    """A branch that adds nothing yet, as zero-initialised ones."""
    for p in m.conv2d_list[2].parameters():
        nn.init.zeros_(p)


#: Each differs from what is fused by something that keys and shapes do not show.
DECLINED: list[tuple[Callable[[], Any], Callable[[Any], Any], str]] = [
    (mobile_vit, activation("convs.1", nn.SiLU()), "convs.1.activation is a SiLU, not a ReLU"),
    (mobile_vit, lambda m: m.convs.__setitem__(2, nn.Conv2d(6, 8, 1)), "convs.2 is a Conv2d, not one of MobileViT"),
    (mobile_vit, lambda m: setattr(m.convs[4], "global_pool", nn.AvgPool2d(2)), "not with a global mean"),
    (mobile_vit, lambda m: setattr(m.convs[3].convolution, "padding", (2, 2)), "padding=(2, 2), not 4"),
    (mobile_vit, lambda m: setattr(m.project, "normalization", nn.InstanceNorm2d(8)), "InstanceNorm2d"),
    (mobile_vit, lambda m: m.convs.pop(-1), "the last of convs is a MobileViTConvLayer, not an image-level branch"),
    (mobile_net, activation("conv_projection", nn.ReLU6()), "conv_projection.activation is a ReLU6"),
    (mobile_net, lambda m: setattr(m.conv_aspp, "normalization", None), "a norm is a NoneType, not a BatchNorm"),
    (mobile_net, lambda m: setattr(m, "avg_pool", nn.AdaptiveMaxPool2d(1)), "not with a global mean"),
    (timm_module, lambda m: setattr(m, "fuse_act", nn.LeakyReLU()), "its last step is a LeakyReLU, not a ReLU"),
    (timm_module, lambda m: m.fuse_layers[0][2].__setitem__(2, nn.Upsample(scale_factor=2)), "not nearest by 4"),
    (timm_module, lambda m: m.fuse_layers[1].__setitem__(1, nn.ReLU()), "should leave the map as it is"),
    (lambda: hrnet.HighResolutionModule(1, hrnet.BasicBlock, (1,), [4], (4,), "SUM"), id, "are not a list"),
    (lambda: user.SegmentationModule(WIDTHS), id, "0.1 does not upsample: the forward does, bilinearly"),
    (lambda: user.EarlyClassifierModule(6, (1, 2, 4), 3), id, "gives another result in eval mode"),
    (lambda: user.EarlyClassifierModule(6, (1, 2, 4), 3), silent_third, "gives another result in eval mode"),
    (lambda: user.EarlyClassifierModule(6, (1, 2, 4), 3), lambda m: m.to("meta"), "gives another result in eval mode"),
    (research_aspp, norm_between, "convs.1.0 holds [Conv2d, BatchNorm2d, Conv2d]"),
    (
        research_aspp,
        lambda m: m.convs[0].__setitem__(2, nn.LeakyReLU(0.01)),
        "convs.0 holds [Conv2d, BatchNorm2d, Leaky",
    ),
    (semseg_ppm, lambda m: m.features[1].__setitem__(0, nn.AvgPool2d(3)), "features.1 holds [AvgPool2d"),
    (semseg_ppm, lambda m: m.features[0].__setitem__(3, nn.LeakyReLU(0.01)), "features.0 holds"),
    (semseg_ppm, lambda m: m.features[0].__setitem__(2, nn.GroupNorm(1, 2)), "a norm is a GroupNorm, not a BatchNorm"),
    (lambda: user.KazutoASPP(6, 3, (1, 2)), lambda m: setattr(m.c1, "groups", 3), "c1 has groups=3"),
]


@pytest.mark.parametrize(("make", "change", "reason"), DECLINED)
def test_declines_other_structures(make: Callable[[], Any], change: Callable[[Any], Any], reason: str) -> None:
    module = make()
    change(module)
    assert reason in why_skipped(module)


def test_nearest_and_bilinear_exchanges_have_the_same_keys() -> None:
    pose, other = user.PoseModule(WIDTHS), user.SegmentationModule(WIDTHS)
    assert pose.state_dict().keys() == other.state_dict().keys()
    bilinear = user.BilinearPoseModule(WIDTHS)
    pk.register_adapter(user.BilinearPoseModule, registry.adapters[hrnet.HighResolutionModule])
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
    import timm

    model = timm.create_model("hrnet_w18_small", features_only=True).eval()
    x = torch.randn(1, 3, 32, 64)
    expected = model(x)
    report = pk.fuse_(model, strict=True)
    assert {entry.cls for entry in report.fused} == {"HighResolutionModule"} and not report.skipped
    for a, b in zip(model(x), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
