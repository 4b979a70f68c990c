"""Heads of transformers and segmentation_models_pytorch: what is declined and why, and that nothing else moves."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyramid_kernels as pk
from pyramid_kernels.fuse import registry

smp = pytest.importorskip("segmentation_models_pytorch", reason="needs segmentation_models_pytorch")
transformers = pytest.importorskip("transformers", reason="needs transformers")
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder  # noqa: E402
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder  # noqa: E402
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder  # noqa: E402
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder  # noqa: E402
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead  # noqa: E402
from transformers.models.upernet.modeling_upernet import UperNetHead  # noqa: E402

WIDTHS = [4, 5, 6, 7]

HEADS: dict[str, Callable[[], nn.Module]] = {
    "segformer": lambda: SegformerDecodeHead(
        transformers.SegformerConfig(hidden_sizes=WIDTHS, decoder_hidden_size=8, num_labels=3)
    ),
    "upernet": lambda: UperNetHead(transformers.UperNetConfig(hidden_size=8, num_labels=3), WIDTHS),
    "smp-segformer": lambda: SegformerDecoder([3, 0, *WIDTHS], 5, 8),
    "smp-upernet": lambda: UPerNetDecoder([3, 4, *WIDTHS], 5, 8),
    "smp-psp": lambda: PSPDecoder([3, 4, 8], out_channels=8),
    "smp-deeplabv3plus": lambda: DeepLabV3PlusDecoder([3, 4, *WIDTHS], 5, 8, (1, 2, 3), 16, True, 0.5),
}


@pytest.fixture(autouse=True)
def only_shipped_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.load_libraries()
    monkeypatch.setattr(registry, "adapters", dict(registry.adapters))


def maps_of(head: nn.Module) -> list[torch.Tensor]:
    adapter: Any = registry.adapters[type(head)]
    return adapter.example(head, lambda channels, stride: torch.randn(2, channels, 64 // stride, 96 // stride))


def why_skipped(head: nn.Module) -> str:
    """The reason in the head's own line; pyramids inside it may still be fused."""
    cls = type(head)
    own = next(e for e in pk.fuse_(head, backend="reference", only="").entries if e.path == "")
    assert not own.fused and type(head) is cls
    return own.detail


@pytest.mark.parametrize("name", list(HEADS))
def test_swaps_and_undoes_exactly(name: str) -> None:
    torch.manual_seed(0)
    head = HEADS[name]().eval()
    cls, maps, keys = type(head), maps_of(head), list(head.state_dict())
    expected = head(maps)
    parameters = [(p, p.clone(), p.stride()) for p in head.parameters()]
    report = pk.fuse_(head, backend="reference", only="")
    assert [e.path for e in report.fused] == [""] and isinstance(head, cls) and list(head.state_dict()) == keys
    assert all(p.stride() == stride and torch.equal(p, value) for p, value, stride in parameters)
    assert head.why_original(maps) is None
    for other in (head, copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert type(other) is type(head)
        torch.testing.assert_close(other(maps), expected, rtol=1e-4, atol=1e-4)
    assert pk.unfuse_(head) == [""] and type(head) is cls
    assert torch.equal(head(maps), expected)


def test_keyword_arguments_of_transformers() -> None:
    for name in ("segformer", "upernet"):
        head = HEADS[name]().eval()
        maps = maps_of(head)
        pk.fuse_(head, backend="reference")
        assert torch.equal(head(encoder_hidden_states=tuple(maps)), head(maps))


def test_a_pyramid_has_an_align_corners_of_its_own() -> None:
    head: Any = HEADS["upernet"]().eval()
    maps = maps_of(head)
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


def test_dropout_draws_the_same_mask() -> None:
    head = HEADS["segformer"]()
    maps, unfused = maps_of(head), copy.deepcopy(head)
    pk.fuse_(head, backend="composed")
    results = []
    for module in (head, unfused):
        torch.manual_seed(3)
        results.append(module(maps))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def conv(out: int, channels: int, **kwargs: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, out, **({"kernel_size": 3, "padding": 1, "bias": False} | kwargs))


SPATIAL = [
    ({"stride": 2}, "stride=(2, 2)"),
    ({"dilation": 2, "padding": 2}, "dilation=(2, 2), not 1"),
    ({"padding": 0}, "padding=(0, 0), not 1"),
    ({"padding_mode": "reflect"}, "padding_mode='reflect'"),
    ({"groups": 2}, "groups=2"),
    ({"kernel_size": 5, "padding": 2}, "kernel_size=(5, 5)"),
    ({"bias": True}, "bias in front of its norm"),
]


@pytest.mark.parametrize(("change", "reason"), SPATIAL, ids=[reason for _, reason in SPATIAL])
@pytest.mark.parametrize("name", ["upernet", "smp-upernet", "smp-psp"])
def test_declines_other_convolutions(name: str, change: dict[str, Any], reason: str) -> None:
    head: Any = HEADS[name]()
    if name == "upernet":
        head.fpn_bottleneck.conv = conv(8, 32, **change)
    elif name == "smp-upernet":
        head.fusion_block[0] = conv(8, 32, **change)
    else:
        head.conv[0] = conv(8, 16, **change)
    assert reason in why_skipped(head)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("segformer", lambda m: setattr(m, "activation", nn.GELU()), "activation is a GELU"),
        ("segformer", lambda m: setattr(m, "dropout", nn.Dropout2d()), "dropout is a Dropout2d"),
        ("segformer", lambda m: setattr(m, "batch_norm", nn.GroupNorm(2, 8)), "GroupNorm"),
        ("segformer", lambda m: setattr(m, "linear_fuse", conv(8, 32)), "kernel_size=(3, 3), not 1"),
        ("segformer", lambda m: setattr(m, "linear_fuse", conv(8, 24, kernel_size=1, padding=0)), "takes 24 channels"),
        (
            "segformer",
            lambda m: setattr(m, "linear_fuse", conv(8, 32, kernel_size=1, padding=0, stride=2)),
            "stride=(2, 2)",
        ),
        (
            "segformer",
            lambda m: setattr(m.linear_projections[1], "proj", nn.Sequential(nn.Linear(5, 8), nn.ReLU())),
            "a projection is a Sequential, not a Linear",
        ),
        ("segformer", lambda m: m.linear_projections.__setitem__(0, nn.Linear(4, 8)), "is a Linear, not SegformerMLP"),
        ("upernet", lambda m: setattr(m.bottleneck, "activation", nn.SiLU()), "bottleneck.activation is a SiLU"),
        ("upernet", lambda m: setattr(m.bottleneck, "conv", conv(8, 30)), "takes 30 channels"),
        ("upernet", lambda m: setattr(m.fpn_bottleneck, "conv", conv(8, 31)), "31 channels, and the maps have 32"),
        ("upernet", lambda m: m.psp_modules.add_module("1", nn.Identity()), "psp_modules are not its children"),
        (
            "upernet",
            lambda m: m.psp_modules.blocks[1].add_module("1", nn.Identity()),
            "the layers of psp_modules.1 are not its two children",
        ),
        ("upernet", lambda m: m.fpn_convs.append(m.fpn_convs[0]), "3 lateral convolutions and 4 after them"),
        ("upernet", lambda m: setattr(m, "classifier", nn.Identity()), "classifier is a Identity, not a Conv2d"),
        ("smp-segformer", lambda m: m.mlp_stage.__setitem__(0, nn.Linear(7, 8)), "mlp_stage.0 is a Linear, not MLP"),
        ("smp-segformer", lambda m: m.fuse_stage.__setitem__(2, nn.SiLU()), "fuse_stage holds"),
        ("smp-upernet", lambda m: setattr(m, "psp", nn.Conv2d(7, 8, 1)), "psp is a Conv2d, not PSPModule"),
        ("smp-upernet", lambda m: m.fpn_lateral_blocks.__setitem__(0, nn.Identity()), "Identity, not FPNLateralBlock"),
        ("smp-upernet", lambda m: m.fusion_block.__setitem__(1, nn.InstanceNorm2d(8)), "InstanceNorm2d"),
        ("smp-upernet", lambda m: m.fusion_block.__setitem__(0, conv(8, 31)), "31 channels, and the maps have 32"),
        ("smp-psp", lambda m: setattr(m, "psp", nn.Identity()), "psp is a Identity, not PSPModule"),
        ("smp-psp", lambda m: m.conv.__setitem__(2, nn.LeakyReLU()), "conv holds"),
        ("smp-deeplabv3plus", lambda m: setattr(m.up, "mode", "nearest"), "not a bilinear Upsample"),
        ("smp-deeplabv3plus", lambda m: setattr(m.up, "scale_factor", 1.5), "not a bilinear Upsample"),
        ("smp-deeplabv3plus", lambda m: m.block2.__setitem__(2, nn.SiLU()), "block2 holds"),
        ("smp-deeplabv3plus", lambda m: m.block1.append(nn.ReLU()), "block1 holds"),
        (
            "smp-deeplabv3plus",
            lambda m: m.block2[0].__setitem__(0, conv(56, 56, groups=56, bias=True)),
            "block2.0.0 has a bias",
        ),
        (
            "smp-deeplabv3plus",
            lambda m: m.block2[0].__setitem__(0, conv(56, 56, groups=56, dilation=2, padding=2)),
            "dilation=(2, 2), not 1",
        ),
        (
            "smp-deeplabv3plus",
            lambda m: m.block2[0].__setitem__(0, conv(55, 55, groups=55)),
            "takes 55 channels, and the maps have 56",
        ),
        (
            "smp-deeplabv3plus",
            lambda m: m.block2[0].__setitem__(0, conv(56, 56, groups=28)),
            "block2.0.0 is not depthwise",
        ),
    ],
)  # fmt: skip
def test_declines_other_structures(name: str, change: Callable[[Any], Any], reason: str) -> None:
    head = HEADS[name]()
    change(head)
    assert reason in why_skipped(head)


class FineFirst(SegformerDecodeHead):
    """The same layers, concatenated in another order."""

    def forward(self, encoder_hidden_states: Any, **kwargs: Any) -> torch.Tensor:
        size = encoder_hidden_states[0].shape[2:]
        levels = []
        for m, project in zip(encoder_hidden_states, self.linear_projections, strict=True):
            level = project(m).transpose(1, 2).unflatten(2, m.shape[2:])
            levels.append(nn.functional.interpolate(level, size=size, mode="bilinear", align_corners=False))
        y = self.activation(self.batch_norm(self.linear_fuse(torch.cat(levels, 1))))
        return self.classifier(self.dropout(y))


def test_another_concat_order_is_found_out() -> None:
    head = FineFirst(transformers.SegformerConfig(hidden_sizes=WIDTHS, decoder_hidden_size=8, num_labels=3))
    assert "overrides the forward of SegformerDecodeHead" in why_skipped(head)
    pk.register_adapter(FineFirst, pk.fuse.SegFormerForward)
    assert "gives another result in eval mode" in why_skipped(head)


def test_maps_that_do_not_fit_take_the_original_forward() -> None:
    decoder: Any = HEADS["smp-deeplabv3plus"]().eval()
    *maps, last = maps_of(decoder)
    pk.fuse_(decoder, backend="reference", only="")
    assert "4 times as large" in decoder.why_original([*maps, last[..., :-1]])
    segformer: Any = HEADS["segformer"]().eval()
    maps = maps_of(segformer)
    pk.fuse_(segformer, backend="reference")
    flat = [*maps[:-1], maps[-1].flatten(2).transpose(1, 2)]
    assert "not a batch of maps" in segformer.why_original(flat)
    assert "not a list of 4 maps" in segformer.why_original(maps[:3])


def test_a_layer_replaced_after_fusing_takes_the_original_forward() -> None:
    class LowRank(nn.Linear):
        """A linear layer with something added to it."""

        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + input.mean()

    head: Any = HEADS["segformer"]().eval()
    maps = maps_of(head)
    pk.fuse_(head, backend="reference")
    head.linear_projections[0].proj = LowRank(4, 8)
    assert "a projection is a LowRank" in head.why_original(maps)
    head(maps)


def test_smps_convolutional_encoders_have_a_map_finer_than_the_result() -> None:
    decoder: Any = SegformerDecoder([3, *WIDTHS, 8], 5, 8).eval()
    maps = [torch.randn(2, c, 64 >> i, 64 >> i) for i, c in enumerate([3, *WIDTHS, 8])]
    expected = decoder(maps)
    assert pk.fuse_(decoder, backend="composed").fused
    torch.testing.assert_close(decoder(maps), expected, rtol=1e-4, atol=1e-4)
