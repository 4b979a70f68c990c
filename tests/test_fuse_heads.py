"""``fuse_`` on heads of libraries and repositories: what single ones do beside the contract of every adapter."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyramid_kernels as pk
from pyramid_kernels.fuse import mmseg as adapters
from pyramid_kernels.nn import HRNetV2Head
from tests import third_party as user
from tests.agreement import fair_
from tests.foreign import (
    WIDTHS,
    build,
    inputs,
    mm_head,
    mm_uper,
    smp,
    why_skipped,
)
from tests.libraries import mmseg

pytestmark = pytest.mark.usefixtures("own_adapters")

X = torch.randn(8, 3, 16, 24, generator=torch.Generator().manual_seed(0))


def head_and_maps(name: str) -> tuple[Any, Any]:
    head = build(name, torch.float32).eval()
    return head, inputs(head)[0]


def overriding(head: Any, **methods: Any) -> Any:
    """``head`` in a subclass of its class that has ``methods``."""
    head.__class__ = type("Own", (type(head),), methods)
    return head


def test_a_pyramid_has_an_align_corners_of_its_own() -> None:
    head, maps = head_and_maps("transformers-upernet")
    head.psp_modules.align_corners = True
    for _ in range(2):
        expected = head(maps)
        assert pk.fuse_(head, backend="reference").fused
        torch.testing.assert_close(head(maps), expected, rtol=1e-4, atol=1e-4)
        head.align_corners = True  # read on every call
        fused = head(maps)
        pk.unfuse_(head)
        torch.testing.assert_close(head(maps), fused, rtol=1e-4, atol=1e-4)
        head.psp_modules.align_corners = False


#: What is made of a head's maps, and why its original forward takes that; None: the ops take it.
UNFIT: list[tuple[str, Callable[[Any], Any], str | None]] = [
    ("smp-deeplabv3plus", lambda m: [*m[:-1], m[-1][..., :-1]], "4 times as large"),
    ("transformers-segformer", lambda m: [*m[:-1], m[-1].flatten(2).transpose(1, 2)], "not a batch of maps"),
    ("transformers-segformer", lambda m: m[:3], "not a list of 4 maps"),
    ("mmseg-uper", lambda m: m, None),
    ("mmseg-uper", lambda m: m[:3], "not a list of 4 maps"),
    ("mmseg-hrnetv2", lambda m: m, None),
    ("mmseg-hrnetv2", lambda m: m[0], "not a list of 4 maps"),
    ("mmseg-hrnetv2", lambda m: [*m[:3], m[3][:, 1:]], "5, 5, 6, 5 channels"),
    ("smp-deeplabv3plus", lambda m: [*m[:-1], m[-1][:1]], "differ in batch"),
]


@pytest.mark.parametrize(("name", "changed", "why"), UNFIT)
def test_inputs_that_do_not_fit_take_the_original_forward(name: str, changed: Any, why: str | None) -> None:
    head, maps = head_and_maps(name)
    pk.fuse_(head, backend="reference", only="")
    found = head.why_original(changed(maps))
    assert found is None if why is None else why in found


def test_a_layer_replaced_after_fusing_takes_the_original_forward() -> None:
    class LowRank(nn.Linear):
        """A linear layer with something added to it."""

        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + input.mean()

    head, maps = head_and_maps("transformers-segformer")
    pk.fuse_(head, backend="reference")
    head.linear_projections[0].proj = LowRank(4, 8)
    assert "a projection is a LowRank" in head.why_original(maps)
    head(maps)


def test_smps_convolutional_encoders_have_a_map_finer_than_the_result() -> None:
    decoder = smp("segformer.decoder", "SegformerDecoder")([3, *WIDTHS, 8], 5, 8).eval()
    maps = [torch.randn(2, c, 64 >> i, 64 >> i) for i, c in enumerate([3, *WIDTHS, 8])]
    expected = decoder(maps)
    assert pk.fuse_(decoder, backend="composed").fused
    torch.testing.assert_close(decoder(maps), expected, rtol=1e-4, atol=1e-4)


def test_more_maps_than_the_check_has_sizes_for() -> None:
    """A fifth map at a stride of 64 is smaller than a pixel of the images on which fuse_ checks a swap."""
    widths = [*WIDTHS, 8]
    head = mm_uper(in_channels=widths, in_index=list(range(5)))
    assert pk.fuse_(head, backend="reference", only="").fused


def test_norms_folded_into_convolutions() -> None:
    head, maps = head_and_maps("mmseg-uper")
    for module in head.modules():
        if type(module).__name__ == "ConvModule":
            module.conv = nn.utils.fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    expected = head(maps)
    assert pk.fuse_(head, backend="reference").fused and head.why_original(maps) is None
    torch.testing.assert_close(head(maps), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", ["uper", "uper.psp_modules", "psp.psp_modules", "hrnetv2", "segformer"])
def test_align_corners_is_read_on_every_call(path: str) -> None:
    name, _, owner = path.partition(".")
    head, maps = head_and_maps(f"mmseg-{name}")
    pk.fuse_(head, backend="reference")
    before = head(maps)
    head.get_submodule(owner).align_corners = True
    unfused = copy.deepcopy(head)
    pk.unfuse_(unfused)
    torch.testing.assert_close(head(maps), unfused(maps), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(head(maps), before, rtol=1e-3, atol=1e-3)


def test_official_hrnet_takes_the_heads_in_place_of_its_layers() -> None:
    model: Any = fair_(user.HighResolutionNet((4, 5, 6), 3), X)
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


def test_a_pyramid_that_another_head_concatenates_is_left_alone() -> None:
    pyramid = mmseg("models.decode_heads.psp_head").PPM((1, 2), 4, 3, None, {"type": "BN"}, {"type": "ReLU"}, False)
    assert not pk.fuse_(nn.Sequential(pyramid)).entries


def test_one_map_is_no_pyramid() -> None:
    assert "input_transform is None" in why_skipped(mm_head("fcn_head", "FCNHead", in_channels=4, in_index=2))


def test_a_norm_between_the_layers_of_a_level_is_not_composed() -> None:
    head, maps = head_and_maps("mmseg-segformer")
    pk.fuse_(head, backend="reference")
    assert [tuple(m.shape) for m in head.levels(maps)] == [(4, 8, 16 >> i, 24 >> i) for i in range(4)]


def test_subclasses_that_override_what_the_forward_calls() -> None:
    """Another ``_forward_feature`` is another function; scores of its own are called by the fused forward too."""
    head, maps = head_and_maps("mmseg-uper")
    cls = type(head)
    features = overriding(copy.deepcopy(head), _forward_feature=lambda self, x: 2 * cls._forward_feature(self, x))
    assert "overrides the _forward_feature of UPerHead" in why_skipped(features)
    scores = overriding(head, cls_seg=lambda self, feat: 2 * cls.cls_seg(self, feat))
    expected = scores(maps)
    assert pk.fuse_(scores, backend="reference").fused
    torch.testing.assert_close(scores(maps), expected, rtol=1e-4, atol=1e-4)


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
    class Own(adapters.PSPHeadForward):
        """Another forward for the same class."""

    head = build("mmseg-psp")
    pk.register_adapter(type(head), Own)
    assert pk.fuse_(head, backend="reference").fused and isinstance(head, Own)
