"""Heads of libraries and repositories that cannot be installed beside the tests, as classes of the same structure."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyramid_kernels as pk
from pyramid_kernels.fuse import SegFormerForward, mmseg, registry
from pyramid_kernels.nn import HRNetV2Head
from tests import third_party as user
from tests import third_party_mmseg as like
from tests.agreement import assert_agrees, fair_

WIDTHS = [4, 5, 6, 7]
LEVELS = {"in_channels": WIDTHS, "in_index": [0, 1, 2, 3], "channels": 8}
HRNET = LEVELS | {"input_transform": "resize_concat", "num_convs": 1, "kernel_size": 1, "concat_input": False}

HEADS: dict[str, Callable[[], nn.Module]] = {
    "psp": lambda: like.PSPHead(in_channels=7, in_index=3, channels=8),
    "psp-corners": lambda: like.PSPHead(pool_scales=(1, 3), in_channels=7, channels=8, align_corners=True),
    "uper": lambda: like.UPerHead(**LEVELS),
    "uper-corners": lambda: like.UPerHead(pool_scales=(1, 2), **LEVELS | {"align_corners": True}),
    "hrnetv2": lambda: like.FCNHead(**HRNET | {"dropout_ratio": -1}),
    "fcn-3x3": lambda: like.FCNHead(**HRNET | {"num_convs": 2, "kernel_size": 3, "align_corners": True}),
    "segformer": lambda: like.SegformerHead(**LEVELS),
    "vainf": lambda: user.DeepLabHeadV3Plus(7, 4, 3),
}


@pytest.fixture(autouse=True)
def _under_their_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes stand where their libraries have them; adapters of this test only."""
    registry.load_libraries()
    for registered in ("adapters", "notes"):
        monkeypatch.setattr(registry, registered, dict(getattr(registry, registered)))
    found = {f"mmseg.models.decode_heads.{name}": cls for name, cls in like.MODULES.items()}
    found |= {"network._deeplab": user.DeepLabHeadV3Plus, "models.seg_hrnet_ocr": user.HighResolutionNet}
    for name, cls in found.items():
        module = ModuleType(name)
        setattr(module, cls.__name__, cls)
        monkeypatch.setitem(sys.modules, name, module)


class Segmentor(nn.Module):
    """A head behind a backbone of four maps."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.backbone = nn.ModuleList(nn.Conv2d(3, c, 3, stride=1 << i, padding=1) for i, c in enumerate(WIDTHS))
        self.decode_head = head

    def forward(self, x: Tensor) -> Tensor:
        maps = [conv(x) for conv in self.backbone]
        takes_dict = isinstance(self.decode_head, user.DeepLabHeadV3Plus)
        return self.decode_head({"low_level": maps[0], "out": maps[-1]} if takes_dict else maps)


@pytest.fixture(params=list(HEADS))
def head(request: pytest.FixtureRequest) -> Any:
    return HEADS[request.param]()


@pytest.fixture
def model(head: Any) -> Any:
    return fair_(Segmentor(head), X, "decode_head")


X = torch.randn(8, 3, 16, 24, generator=torch.Generator().manual_seed(0))


MAPS = [torch.randn(2, c, 16 >> i, 24 >> i, generator=torch.Generator().manual_seed(1)) for i, c in enumerate(WIDTHS)]


def why_skipped(head: nn.Module) -> str:
    cls = type(head)
    own = next(e for e in pk.fuse_(head, backend="reference", only="").entries if e.path == "")
    assert not own.fused and type(head) is cls
    return own.detail


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_agrees(model: Any, train: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    unfused = model.train(train)
    ours = copy.deepcopy(unfused)
    report = pk.fuse_(ours, backend="reference", only="decode_head", example_input=X)
    assert [e.path for e in report.fused] == ["decode_head"]
    kind, runs = type(ours.decode_head), []
    forward = kind.fused_forward
    monkeypatch.setattr(kind, "fused_forward", lambda self, x: [runs.append(1), forward(self, x)][1])
    assert_agrees(ours, unfused, X)
    assert len(runs) == 1


def test_swaps_and_undoes_exactly(model: Any) -> None:
    model.eval()
    cls, keys, expected = type(model.decode_head), list(model.state_dict()), model(X)
    parameters = [(p, p.clone(), p.stride()) for p in model.parameters()]
    assert pk.fuse_(model, backend="reference", only="decode_head").fused
    assert isinstance(model.decode_head, cls) and list(model.state_dict()) == keys
    assert all(p.stride() == stride and torch.equal(p, value) for p, value, stride in parameters)
    for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other.decode_head) is type(model.decode_head)
        torch.testing.assert_close(other(X), expected, rtol=1e-4, atol=1e-4)
    assert pk.unfuse_(model) == ["decode_head"] and type(model.decode_head) is cls
    assert torch.equal(model(X), expected)


def test_one_optimiser_step_on_the_composed_form(model: Any) -> None:
    unfused = model.double()
    ours = copy.deepcopy(unfused)
    assert pk.fuse_(ours, only="decode_head", backend="composed").fused
    for m in (unfused, ours):
        optimiser = torch.optim.AdamW(m.parameters(), lr=1e-3, fused=True)
        m(X.double()).square().mean().backward()
        optimiser.step()
    pk.unfuse_(ours)
    for (name, a), b in zip(ours.state_dict().items(), unfused.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_sync_batch_norm_as_mmsegmentation_configures_it(model: Any) -> None:
    unfused = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    ours = copy.deepcopy(unfused)
    assert pk.fuse_(ours, backend="reference", only="decode_head").fused
    assert_agrees(ours, unfused, X, draws=4)


def test_norms_folded_into_convolutions() -> None:
    head = HEADS["uper"]().eval()
    for module in head.modules():
        if isinstance(module, like.ConvModule):
            module.conv = nn.utils.fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    expected = head(MAPS)
    assert pk.fuse_(head, backend="reference").fused and head.why_original(MAPS) is None
    torch.testing.assert_close(head(MAPS), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", ["uper", "uper.psp_modules", "psp.psp_modules", "hrnetv2", "segformer"])
def test_align_corners_is_read_on_every_call(path: str) -> None:
    name, _, owner = path.partition(".")
    head = HEADS[name]().eval()
    pk.fuse_(head, backend="reference")
    before = head(MAPS)
    head.get_submodule(owner).align_corners = True
    unfused = copy.deepcopy(head)
    pk.unfuse_(unfused)
    torch.testing.assert_close(head(MAPS), unfused(MAPS), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(head(MAPS), before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["psp", "uper", "segformer", "fcn-3x3", "vainf"])
def test_dropout_draws_the_same_mask(name: str) -> None:
    model = Segmentor(HEADS[name]())
    unfused = copy.deepcopy(model)
    pk.fuse_(model, backend="composed", only="decode_head")
    results = []
    for m in (model, unfused):
        torch.manual_seed(3)
        results.append(m(X))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_the_pyramid_inside_a_vainf_head_has_its_own_forward() -> None:
    report = pk.fuse_(HEADS["vainf"](), backend="reference")
    assert [e.path for e in report.fused] == ["", "aspp"]


# What is declined.


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
    ("psp", lambda m: setattr(m, "bottleneck", block(39, 8, 3, 1, spectral=True)), "a weight is a Tensor"),
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
    assert SegFormerForward.why_not(head) is not None
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


def test_separable_decoder_is_left_alone() -> None:
    head = like.DepthwiseSeparableASPPHead(c1_in_channels=4, c1_channels=3, in_channels=7, channels=8)
    assert "a norm and a ReLU follow each depthwise 3x3" in why_skipped(head)


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


def test_a_users_own_adapter_wins() -> None:
    class Own(mmseg.PSPHeadForward):
        """Another forward for the same class."""

    pk.register_adapter(like.PSPHead, Own)
    head = HEADS["psp"]()
    assert pk.fuse_(head, backend="reference").fused and isinstance(head, Own)


# The official HRNet repository.


def test_official_hrnet_takes_the_heads_in_place_of_its_layers() -> None:
    model: Any = fair_(user.HighResolutionNet((4, 5, 6), 3), X)
    assert "put nn.HRNetV2Head in the place of aux_head and of conv3x3_ocr" in why_skipped(model)
    ours = copy.deepcopy(model)
    for name in ("aux_head", "conv3x3_ocr"):
        layers = HRNetV2Head.from_reference(getattr(ours, name), (4, 5, 6), align_corners=True, backend="reference")
        setattr(ours, name, layers)
    ours.load_state_dict(model.state_dict())
    assert list(ours.state_dict()) == list(model.state_dict())
    for train in (True, False):
        for edited in (False, True):  # before the edit of the model's forward, the heads take the concat
            ours.joined = not edited
            got, expected = copy.deepcopy(ours).train(train)(X), copy.deepcopy(model).train(train)(X)
            for a, b in zip(got, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="0 takes 15 channels, and the maps have 16"):
        HRNetV2Head.from_reference(model.aux_head, (4, 5, 7))
