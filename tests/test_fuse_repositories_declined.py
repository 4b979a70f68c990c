"""Heads of libraries and repositories that cannot be installed beside the tests: what is declined, and why."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyramid_kernels as pk
from pyramid_kernels.fuse import mmseg
from tests import third_party as user
from tests import third_party_mmseg as like
from tests.repositories import HEADS, LEVELS, MAPS, under_their_own_names, why_skipped

__all__ = ["under_their_own_names"]


def block(*args: Any, **kwargs: Any) -> like.ConvModule:
    return like.ConvModule(*args, **kwargs)


#: Each differs from a head that is fused by what weights and keys do not show.
DECLINED: list[tuple[str, Callable[[Any], Any], str]] = [
    ("psp", lambda m: setattr(m, "bottleneck", block(39, 8, 3, 1, order=("norm", "act", "conv"))), "order=('norm', "),
    ("psp", lambda m: setattr(m, "bottleneck", block(39, 8, 3, 1, act=nn.LeakyReLU())), "activate is a LeakyReLU"),
    ("psp", lambda m: setattr(m, "bottleneck", block(39, 8, 3, 1, norm=None)), "holds ['conv', 'activate']"),
    ("psp", lambda m: setattr(m, "bottleneck", block(39, 8, 3, 1, norm=nn.InstanceNorm2d)), "InstanceNorm2d"),
    ("psp", lambda m: setattr(m, "bottleneck", block(38, 8, 3, 1)), "takes 38 channels"),
    ("psp", lambda m: setattr(m, "bottleneck", block(39, 8, 3, 2, 2)), "dilation=(2, 2), not 1"),
    ("psp", lambda m: setattr(m, "bottleneck", block(39, 8, 5, 2)), "kernel_size=(5, 5)"),
    ("psp", lambda m: setattr(m, "bottleneck", block(39, 8, 3, 1, spectral=True)), "a child has hooks"),
    ("psp", lambda m: setattr(m.bottleneck, "conv", nn.Conv2d(39, 8, 3, padding=1)), "bias in front of its norm"),
    ("psp", lambda m: setattr(m, "bottleneck", nn.Identity()), "bottleneck is a Identity, not a ConvModule"),
    ("psp", lambda m: m.psp_modules[1].__setitem__(0, nn.AvgPool2d(2)), "psp_modules.1 holds"),
    ("psp", lambda m: m.psp_modules[1].__setitem__(1, block(7, 8, 3, 1)), "kernel_size=(3, 3), not 1"),
    ("psp", lambda m: setattr(m, "psp_modules", nn.ModuleList()), "psp_modules is not a ModuleList of levels"),
    ("psp", lambda m: setattr(m, "input_transform", "multiple_select"), "input_transform is 'multiple_select'"),
    ("psp", lambda m: setattr(m, "_transform_inputs", lambda x: x[0]), "own _transform_inputs"),
    ("uper", lambda m: m.fpn_convs.append(block(8, 8, 3, 1)), "3 lateral convolutions and 4 after them"),
    ("uper", lambda m: m.lateral_convs.__setitem__(0, block(4, 8, 1, norm=None)), "lateral_convs.0 holds"),
    ("uper", lambda m: setattr(m, "fpn_bottleneck", block(31, 8, 3, 1)), "takes 31 channels"),
    ("uper", lambda m: setattr(m, "input_transform", None), "input_transform is None"),
    ("hrnetv2", lambda m: setattr(m, "concat_input", True), "conv_cat reads the maps again"),
    ("hrnetv2", lambda m: setattr(m, "convs", nn.Identity()), "convs is not a list of ConvModules"),
    ("hrnetv2", lambda m: m.convs.__setitem__(0, block(21, 8, 1)), "takes 21 channels, and the maps have 22"),
    ("segformer", lambda m: setattr(m, "interpolate_mode", "nearest"), "interpolate_mode is 'nearest'"),
    ("segformer", lambda m: setattr(m, "fusion_conv", block(24, 8, 1)), "takes 24 channels, and the maps have 32"),
    ("vainf", lambda m: m.classifier.__setitem__(2, nn.LeakyReLU()), "classifier holds"),
    ("vainf", lambda m: m.classifier.__setitem__(0, nn.Sequential(nn.Conv2d(16, 8, 1))), "holds [Sequential,"),
    ("vainf", lambda m: m.project.append(nn.ReLU()), "project holds"),
    ("vainf", lambda m: setattr(m, "aspp", nn.Identity()), "takes 16 channels, and the maps have 6"),
    ("vainf", lambda m: delattr(m, "aspp"), "does not hold project, aspp and classifier"),
    (
        "vainf",
        lambda m: m.classifier.__setitem__(0, nn.Conv2d(16, 8, 3, padding=1, bias=False, padding_mode="reflect")),
        "padding_mode='reflect'",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "reason"), DECLINED)
def test_declines_other_structures(name: str, change: Callable[[Any], Any], reason: str) -> None:
    head = HEADS[name]()
    change(head)
    assert reason in why_skipped(head)


def test_a_pyramid_that_another_head_concatenates_is_left_alone() -> None:
    pyramid = like.PPM((1, 2), 4, 3, align_corners=False)
    assert not pk.fuse_(nn.Sequential(pyramid)).entries


class CoarseFirst(like.UPerHead):
    """The same layers, the feature pyramid concatenated from the coarsest map on."""

    def joined(self, outs: list[Tensor]) -> Tensor:
        return super().joined(outs[::-1])


def test_one_map_is_no_pyramid() -> None:
    assert "input_transform is None" in why_skipped(like.FCNHead(in_channels=4, channels=8, in_index=2))


def test_a_norm_between_the_layers_of_a_level_is_not_composed() -> None:
    head = HEADS["segformer"]()
    pk.fuse_(head.eval(), backend="reference")
    assert [tuple(m.shape) for m in head.levels(MAPS)] == [(2, 8, 16 >> i, 24 >> i) for i in range(4)]


class OwnFeature(like.UPerHead):
    """The same forward, which calls another ``_forward_feature``."""

    def _forward_feature(self, inputs: Any) -> Tensor:
        return 2 * super()._forward_feature(inputs)


class OwnScores(like.UPerHead):
    """The same forward, which ends in other scores; the fused one calls them too."""

    def cls_seg(self, feat: Tensor) -> Tensor:
        return 2 * super().cls_seg(feat)


def test_subclasses_that_override_what_the_forward_calls() -> None:
    assert "overrides the _forward_feature of UPerHead" in why_skipped(OwnFeature(**LEVELS))
    head = OwnScores(**LEVELS).eval()
    expected = head(MAPS)
    assert pk.fuse_(head, backend="reference").fused
    torch.testing.assert_close(head(MAPS), expected, rtol=1e-4, atol=1e-4)


def test_a_class_without_an_adapter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    module, cls = ModuleType("mmseg.models.backbones.hrnet"), type("HRModule", (nn.Module,), {})
    setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert "resizes them a second time" in why_skipped(cls())


def test_another_concat_order_is_found_out() -> None:
    assert "overrides the forward of DeepLabHeadV3Plus" in why_skipped(user.AsppFirst(7, 4, 3))
    for head, adapter in (
        (user.AsppFirst(7, 4, 3), pk.fuse.repositories.DeepLabHeadV3PlusForward),
        (CoarseFirst(**LEVELS), mmseg.UPerHeadForward),
        (user.ReversedPPM(8, 2, (1, 2, 3)), pk.fuse.PPMForward),
    ):
        pk.register_adapter(type(head), adapter)
        assert "gives another result in eval mode" in why_skipped(head)


def test_inputs_that_do_not_fit_take_the_original_forward() -> None:
    uper, hrnet, vainf = (HEADS[name]().eval() for name in ("uper", "hrnetv2", "vainf"))
    maps = MAPS
    for head in (uper, hrnet, vainf):
        pk.fuse_(head, backend="reference", only="")
    assert uper.why_original(maps) is None and hrnet.why_original(maps) is None
    assert "not a list of 4 maps" in uper.why_original(maps[:3])
    assert "not a list of 4 maps" in hrnet.why_original(maps[0])
    assert "4, 5, 6, 6 channels" in hrnet.why_original([*maps[:3], maps[3][:, 1:]])
    assert "not a list of 2 maps" in vainf.why_original({"low_level": maps[0]})
    assert "differ in batch" in vainf.why_original({"low_level": maps[0], "out": maps[3][:1]})
    assert vainf.why_original({"low_level": maps[0], "out": maps[3], "aux": maps[2]}) is None


class HalfScores(nn.Sequential):
    """HRNetV2's layers in a class that does not say which maps it joins."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


def test_a_registered_head_that_does_not_say_its_maps() -> None:
    pk.register_adapter(HalfScores, pk.fuse.HRNetV2Forward)
    layers = nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.ReLU()
    assert "does not say its in_channels" in why_skipped(HalfScores(*layers))
    assert "the head holds [Conv2d, BatchNorm2d], not" in why_skipped(HalfScores(*layers[:2]))


def test_a_users_own_adapter_wins() -> None:
    class Own(mmseg.PSPHeadForward):
        """Another forward for the same class."""

    pk.register_adapter(like.PSPHead, Own)
    head = HEADS["psp"]()
    assert pk.fuse_(head, backend="reference").fused and isinstance(head, Own)
