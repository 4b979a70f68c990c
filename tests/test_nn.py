"""What single modules do beside the contract of every module, and the arguments that modules refuse."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pyramid_kernels.nn import (
    ASPP,
    DSPP,
    MDSPP,
    PPM,
    ASPPv2,
    AttentionRefinementModule,
    DeepLabV3PlusDecoder,
    FeatureFusionModule,
    HRFuse,
    HRNetV2Head,
    PSPHead,
    ReferenceASPPv2,
    SegFormerHead,
    SpatialPyramidPooling,
    UPerHead,
)
from tests.modules import MAP, WIDTHS, build, maps_of
from tests.third_party import PoolFirstASPP


@pytest.mark.parametrize("kind", [ASPP, PPM])
def test_one_value_per_channel_is_refused_as_in_pytorch(kind: type) -> None:
    module = (ASPP(6, (2,), 5) if kind is ASPP else PPM(6, 5)).train()
    module.kernel_backend, x = "reference", torch.randn(1, 6, 7, 5)
    message = r"Expected more than 1 value per channel when training, got input size torch.Size\(\[1, 5, 1, 1\]\)"
    for forward in (module.fused_forward, module.to_reference()):
        with pytest.raises(ValueError, match=message):
            forward(x)
    module.eval()(x)


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_on_a_cpu_a_ppm_is_fused_for_large_maps(form: torch.memory_format) -> None:
    module, x = PPM(64, 3, (1, 2)).eval(), torch.randn(1, 64, 128, 128).contiguous(memory_format=form)
    assert "CPU" in module.why_original(x[..., :64])
    assert module.why_original(x) is None
    torch.testing.assert_close(module(x), module.to_reference()(x), rtol=1e-4, atol=1e-4)


def test_an_aspp_that_does_not_say_its_order() -> None:
    theirs = PoolFirstASPP(6, (2, 3), 4).double().eval()
    x = torch.randn(2, *MAP[0], dtype=torch.float64)
    ours = ASPP.from_reference(theirs, pool_first=True, backend="reference")
    torch.testing.assert_close(ours(x), theirs(x))
    assert not torch.allclose(ASPP.from_reference(theirs, backend="reference")(x), theirs(x))


def test_one_vector_of_one_length_from_maps_of_any_size() -> None:
    spp = SpatialPyramidPooling(backend="reference")
    for size in ((13, 13), (7, 11), (1, 3)):
        x = torch.randn(2, 256, *size)
        expected = torch.cat([nn.functional.adaptive_max_pool2d(x, b).flatten(1) for b in (4, 2, 1)], 1)
        assert torch.equal(spp(x), expected) and expected.shape == (2, 256 * spp.cells) == (2, 5376)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_ceil_windows_refuse_some_sizes(size: int) -> None:
    spp = SpatialPyramidPooling(windows="ceil", backend="reference")
    for module in (spp, spp.to_reference()):
        with pytest.raises(ValueError, match=f"bin 4 on a map of size {size}"):
            module(torch.zeros(1, 2, size, size))


def test_maps_that_do_not_halve_are_refused_as_in_pytorch() -> None:
    fuse, maps = build("hrfuse"), maps_of("hrfuse")
    maps[1] = maps[1][:, :, :3]
    assert fuse.why_original(maps) == "a map is not half as large as the one before"
    with pytest.raises(RuntimeError, match="must match the size of tensor"):
        fuse(maps)
    assert fuse.why_original(maps[:2]) == "the input is not a list of 3 maps"


def odd_sum() -> Any:
    sums = ReferenceASPPv2(4, 3, (1, 2))
    sums.c1.stride = (2, 2)
    return sums


def odd_level(cls: Any, **settings: Any) -> Any:
    plain = cls(3, 4).to_reference()
    plain.levels[1][0] = nn.Conv2d(3, 3, 3, groups=3, **{"padding": 1, "bias": False} | settings)
    return plain


def odd_rows() -> Any:
    rows = HRFuse(WIDTHS).to_reference()
    rows[0][1] = nn.ReLU()
    return rows


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: ASPP(4, (2,), 4, project_kernel=5), "project_kernel must be 1 or 3, got 5"),
    (lambda: ASPPv2(4, 3, ()), "rates must not be empty"),
    (lambda: SpatialPyramidPooling(windows="fixed"), "windows must be one of 'adaptive', 'ceil'"),
    (lambda: HRFuse(WIDTHS, mode="bicubic"), "mode must be one of 'nearest', 'bilinear'"),
    (lambda: HRFuse((4,)), r"channels must be those of two maps or more, got \(4,\)"),
    (lambda: MDSPP(3, 6), "filters must be a positive multiple of 4, got 6"),
    (lambda: MDSPP(3, 4, (1, 2)), r"bins must have one entry per level \(4\), got 2"),
    (lambda: DSPP(3, 4, (1, 0)), "bins must be positive, got 0"),
    (lambda: PSPHead(4, 4, ()), "bins must not be empty"),
    (lambda: SegFormerHead((), 4, 2), "in_channels must not be empty"),
    (lambda: UPerHead((4,), 4, 2, ()), "in_channels and bins must not be empty"),
    (lambda: AttentionRefinementModule(4, norm="batch"), "norm must be one of 'used', 'unused', None, got 'batch'"),
    (lambda: FeatureFusionModule(4, 4, kernel_size=5), "kernel_size must be one of 1, 3, got 5"),
    (lambda: ASPPv2.from_reference(odd_sum()), r"as ReferenceASPPv2 makes it: c1 has stride=\(2, 2\), not 1"),
    (lambda: HRFuse.from_reference(odd_rows()), "0.1 is a ReLU, not a Sequential"),
    (lambda: HRNetV2Head.from_reference(nn.Sequential(nn.Conv2d(4, 4, 1))), "in_channels must not be empty"),
    *[
        (lambda cls=cls, settings=settings: cls.from_reference(odd_level(cls, **settings)),
         f"as {cls.original.__name__} makes it: levels.1.0 has {reason}")
        for cls in (DSPP, MDSPP)
        for settings, reason in (
            ({"stride": 2}, r"stride=\(2, 2\), not 1"),
            ({"padding": 2, "dilation": 2}, r"dilation=\(2, 2\), not 1"),
            ({"bias": True}, "a bias"),
        )
    ],
    *[
        (lambda kind=kind: kind.from_reference(nn.Linear(1, 1)), f"module must {what}")
        for kind, what in {
            ASPP: "be an ASPP .* got a Linear",
            PPM: "be a PPM .* got a Linear",
            PSPHead: "have ppm and cls",
            ASPPv2: "be a ReferenceASPPv2, got a Linear",
            HRFuse: "be a list of lists, as fuse_layers in HRNet, got a Linear",
            **dict.fromkeys((SegFormerHead, UPerHead, DeepLabV3PlusDecoder, HRNetV2Head), ".* got a Linear"),
        }.items()
    ],
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), BAD, ids=range(len(BAD)))
def test_bad_arguments_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
