"""What ``fuse_`` leaves alone, and why: each differs from what it takes by what weights and keys do not show."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from tests import third_party_gates as gates
from tests.foreign import build, why_skipped
from tests.libraries import conv_module as block

pytestmark = pytest.mark.usefixtures("own_adapters")

TF = "transformers-"
Change = Callable[[Any], Any]


def put(path: str, child: Any) -> Change:
    """Puts ``child``, or what it makes in the test, in the place of the child or attribute at ``path``."""

    def change(module: Any) -> None:
        parent, _, name = path.rpartition(".")
        owner = module.get_submodule(parent)
        made = child if isinstance(child, nn.Module) or not callable(child) else child()
        if name.isdigit():
            owner[int(name)] = made
        else:
            setattr(owner, name, made)

    return change


def append(path: str, child: nn.Module) -> Change:
    return lambda m: m.get_submodule(path).append(child)


def remove(path: str) -> Change:
    parent, _, name = path.rpartition(".")
    return lambda m: delattr(m.get_submodule(parent), name)


def conv(out: int, channels: int, kernel: int = 3, **kwargs: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, **({"padding": kernel // 2, "bias": False} | kwargs))


def branch(**kwargs: Any) -> nn.Conv2d:
    """What stands at convs.1.0 of an ASPP, but for ``kwargs``."""
    return nn.Conv2d(8, 6, **({"kernel_size": 3, "padding": 2, "dilation": 2, "bias": False} | kwargs))


def pool(*args: Any, **kwargs: Any) -> nn.MaxPool2d:
    return nn.MaxPool2d(*args, **kwargs)


def unbiased_depthwise(**kwargs: Any) -> nn.Conv2d:
    return conv(56, 56, **({"groups": 56} | kwargs))


def norm_between(m: Any) -> None:
    """The depthwise step of a branch with a norm of its own, as in PaddleSeg and mmsegmentation."""
    depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False)
    m.convs[1][0] = nn.Sequential(depthwise, nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1, bias=False))


def own_forward(path: str) -> Change:
    return lambda m: setattr(m.get_submodule(path), "forward", lambda x: x)


def sharded(m: Any) -> None:
    m.convs[0][0].__class__ = type("FSDPConv2d", (type("FSDPModule", (), {}), nn.Conv2d), {})


def distributed(m: Any) -> None:
    m.convs[1][0].weight = type("Distributed", (nn.Parameter,), {})(m.convs[1][0].weight.detach())


#: Of a convolution of a head, whichever.
SPATIAL: list[tuple[dict[str, Any], str]] = [
    ({"stride": 2}, "stride=(2, 2)"),
    ({"dilation": 2, "padding": 2}, "dilation=(2, 2), not 1"),
    ({"padding": 0}, "padding=(0, 0), not 1"),
    ({"padding_mode": "reflect"}, "padding_mode='reflect'"),
    ({"groups": 2}, "groups=2"),
    ({"kernel": 5}, "kernel_size=(5, 5)"),
    ({"bias": True}, "bias in front of its norm"),
]

DECLINED: list[tuple[str, Change, str]] = [
    ("torchvision", own_forward(""), "own forward"),
    ("torchvision", own_forward("convs.1"), "convs.1 has its own forward"),
    ("torchvision", put("convs.1.0", branch(padding=1)), "padding=(1, 1), not 2"),
    ("torchvision", put("convs.1.0", branch(stride=2)), "stride=(2, 2)"),
    ("torchvision", put("convs.1.0", branch(groups=2)), "groups=2"),
    ("torchvision", put("convs.1.0", branch(padding_mode="reflect")), "padding_mode='reflect'"),
    ("torchvision", put("convs.1.0", branch(dilation=(2, 1))), "dilation=(2, 1)"),
    ("torchvision", put("convs.1.0", branch(kernel_size=5, padding=4)), "kernel_size=(5, 5)"),
    ("torchvision", put("convs.1.0", branch(kernel_size=(1, 3))), "kernel_size=(1, 3)"),
    ("torchvision", put("convs.1.0", branch(bias=True)), "bias in front of its norm"),
    ("torchvision", put("convs.1.0", nn.Conv1d(8, 6, 1)), "holds [Conv1d, BatchNorm2d, ReLU]"),
    ("torchvision", put("convs.1.2", nn.LeakyReLU()), "not [Conv2d, Module, ReLU]"),
    ("torchvision", put("convs.3.0", nn.AdaptiveAvgPool2d(2)), "pools to 2, not 1"),
    ("torchvision", put("convs.3.0", nn.AdaptiveMaxPool2d(1)), "AdaptiveMaxPool2d"),
    ("torchvision", lambda m: m.convs.__setitem__(3, nn.Sequential(*m.convs[3])), "not ASPPPooling"),
    ("torchvision", put("project.0", conv(6, 24, dilation=2, padding=2)), "dilation=(2, 2)"),
    ("torchvision", put("project.0", conv(6, 18, 1)), "takes 18 channels"),
    ("torchvision", append("project", nn.ReLU()), "project holds"),
    ("torchvision", put("convs", nn.ModuleList()), "convs and project are not"),
    ("torchvision", put("convs.1", nn.Linear(8, 6)), "convs.1 is a Linear"),
    *[
        ("torchvision", put("convs.0.1", norm), type(norm).__name__)
        for norm in (nn.GroupNorm(2, 6), nn.InstanceNorm2d(6), nn.LayerNorm([6, 7, 5]), nn.BatchNorm3d(6))
    ],
    ("torchvision", put("convs.0.1", nn.LazyBatchNorm2d), "LazyBatchNorm2d"),
    ("torchvision", lambda m: nn.utils.parametrizations.weight_norm(m.convs[0][0]), "convs.0.0 is parametrized"),
    ("torchvision", sharded, "convs.0.0 is sharded by FSDP"),
    ("torchvision", distributed, "convs.1.0 holds its weight as a Distributed"),
    ("smp-psp-module", put("blocks", nn.ModuleList()), "blocks is not"),
    ("smp-psp-module", put("blocks.0", nn.Identity()), "blocks.0 is a Identity"),
    ("smp-psp-module", put("blocks.1.pool.0", nn.AvgPool2d(2)), "blocks.1.pool holds"),
    ("smp-psp-module", put("blocks.1.pool.0", nn.AdaptiveAvgPool2d((None, 2))), "not a fixed grid"),
    ("smp-psp-module", put("blocks.1.pool.1.2", nn.SiLU()), "blocks.1.pool.1 holds"),
    ("smp-psp-module", put("blocks.1.pool.1.0", conv(2, 8)), "kernel_size=(3, 3)"),
    (TF + "segformer", put("activation", nn.GELU()), "activation is a GELU"),
    (TF + "segformer", put("dropout", nn.Dropout2d()), "dropout is a Dropout2d"),
    (TF + "segformer", put("batch_norm", nn.GroupNorm(2, 8)), "GroupNorm"),
    (TF + "segformer", put("linear_fuse", conv(8, 32)), "kernel_size=(3, 3), not 1"),
    (TF + "segformer", put("linear_fuse", conv(8, 24, 1)), "takes 24 channels"),
    (TF + "segformer", put("linear_fuse", conv(8, 32, 1, stride=2)), "stride=(2, 2)"),
    (TF + "segformer", put("linear_projections.1.proj", nn.Sequential(nn.Linear(5, 8))), "is a Sequential, not a"),
    (TF + "segformer", put("linear_projections.0", nn.Linear(4, 8)), "is a Linear, not SegformerMLP"),
    (TF + "upernet", put("bottleneck.activation", nn.SiLU()), "bottleneck.activation is a SiLU"),
    (TF + "upernet", put("bottleneck.conv", conv(8, 30)), "takes 30 channels"),
    (TF + "upernet", put("fpn_bottleneck.conv", conv(8, 31)), "31 channels, and the maps have 32"),
    (TF + "upernet", lambda m: m.psp_modules.add_module("1", nn.Identity()), "psp_modules are not its children"),
    (
        TF + "upernet",
        lambda m: m.psp_modules.blocks[1].add_module("1", nn.Identity()),
        "the layers of psp_modules.1 are not its two children",
    ),
    (TF + "upernet", lambda m: m.fpn_convs.append(m.fpn_convs[0]), "3 lateral convolutions and 4 after them"),
    (TF + "upernet", put("classifier", nn.Identity()), "classifier is a Identity, not a Conv2d"),
    *[(TF + "upernet", put("fpn_bottleneck.conv", conv(8, 32, **change)), reason) for change, reason in SPATIAL],
    *[("smp-upernet", put("fusion_block.0", conv(8, 32, **change)), reason) for change, reason in SPATIAL],
    *[("smp-psp", put("conv.0", conv(8, 16, **change)), reason) for change, reason in SPATIAL],
    ("smp-segformer", put("mlp_stage.0", nn.Linear(7, 8)), "mlp_stage.0 is a Linear, not MLP"),
    ("smp-segformer", put("fuse_stage.2", nn.SiLU()), "fuse_stage holds"),
    ("smp-upernet", put("psp", nn.Conv2d(7, 8, 1)), "psp is a Conv2d, not PSPModule"),
    ("smp-upernet", put("fpn_lateral_blocks.0", nn.Identity()), "Identity, not FPNLateralBlock"),
    ("smp-upernet", put("fusion_block.1", nn.InstanceNorm2d(8)), "InstanceNorm2d"),
    ("smp-upernet", put("fusion_block.0", conv(8, 31)), "31 channels, and the maps have 32"),
    ("smp-psp", put("psp", nn.Identity()), "psp is a Identity, not PSPModule"),
    ("smp-psp", put("conv.2", nn.LeakyReLU()), "conv holds"),
    ("smp-deeplabv3plus", put("up.mode", "nearest"), "not a bilinear Upsample"),
    ("smp-deeplabv3plus", put("up.scale_factor", 1.5), "not a bilinear Upsample"),
    ("smp-deeplabv3plus", put("block2.2", nn.SiLU()), "block2 holds"),
    ("smp-deeplabv3plus", append("block1", nn.ReLU()), "block1 holds"),
    ("smp-deeplabv3plus", put("block2.0.0", unbiased_depthwise(bias=True)), "block2.0.0 has a bias"),
    ("smp-deeplabv3plus", put("block2.0.0", unbiased_depthwise(dilation=2, padding=2)), "dilation=(2, 2), not 1"),
    ("smp-deeplabv3plus", put("block2.0.0", conv(55, 55, groups=55)), "takes 55 channels, and the maps have 56"),
    ("smp-deeplabv3plus", put("block2.0.0", unbiased_depthwise(groups=28)), "block2.0.0 is not depthwise"),
    (TF + "mobilevit", put("convs.1.activation", nn.SiLU()), "convs.1.activation is a SiLU, not a ReLU"),
    (TF + "mobilevit", put("convs.2", nn.Conv2d(6, 8, 1)), "convs.2 is a Conv2d, not one of MobileViT"),
    (TF + "mobilevit", put("convs.4.global_pool", nn.AvgPool2d(2)), "not with a global mean"),
    (TF + "mobilevit", put("convs.3.convolution.padding", (2, 2)), "padding=(2, 2), not 4"),
    (TF + "mobilevit", put("project.normalization", nn.InstanceNorm2d(8)), "InstanceNorm2d"),
    (TF + "mobilevit", lambda m: m.convs.pop(-1), "the last of convs is a MobileViTConvLayer, not an"),
    (TF + "mobilenet-v2", put("conv_projection.activation", nn.ReLU6()), "conv_projection.activation is a ReLU6"),
    (TF + "mobilenet-v2", put("conv_aspp.normalization", None), "a norm is a NoneType, not a BatchNorm"),
    (TF + "mobilenet-v2", put("avg_pool", nn.AdaptiveMaxPool2d(1)), "not with a global mean"),
    ("timm-hrnet", put("fuse_act", nn.LeakyReLU()), "its last step is a LeakyReLU, not a ReLU"),
    ("timm-hrnet", put("fuse_layers.0.2.2", nn.Upsample(scale_factor=2)), "not nearest by 4"),
    ("timm-hrnet", put("fuse_layers.1.1", nn.ReLU()), "should leave the map as it is"),
    ("mmseg-psp", put("bottleneck", lambda: block(39, 8, 3, padding=1, order=("norm", "act", "conv"))), "order=('no"),
    ("mmseg-psp", put("bottleneck", lambda: block(39, 8, 3, padding=1, act="LeakyReLU")), "activate is a LeakyReLU"),
    ("mmseg-psp", put("bottleneck", lambda: block(39, 8, 3, padding=1, norm=None)), "holds ['conv', 'activate']"),
    ("mmseg-psp", put("bottleneck", lambda: block(39, 8, 3, padding=1, norm="IN")), "InstanceNorm2d"),
    ("mmseg-psp", put("bottleneck", lambda: block(38, 8, 3, padding=1)), "takes 38 channels"),
    ("mmseg-psp", put("bottleneck", lambda: block(39, 8, 3, padding=2, dilation=2)), "dilation=(2, 2), not 1"),
    ("mmseg-psp", put("bottleneck", lambda: block(39, 8, 5, padding=2)), "kernel_size=(5, 5)"),
    ("mmseg-psp", put("bottleneck", lambda: block(39, 8, 3, padding=1, with_spectral_norm=True)), "a child has hooks"),
    ("mmseg-psp", put("bottleneck.conv", conv(8, 39, bias=True)), "bias in front of its norm"),
    ("mmseg-psp", put("bottleneck.bn", nn.GroupNorm(2, 8)), "a norm is a GroupNorm"),
    ("mmseg-psp", put("bottleneck", nn.Identity()), "bottleneck is a Identity, not a ConvModule"),
    ("mmseg-psp", put("psp_modules.1.0", nn.AvgPool2d(2)), "psp_modules.1 holds"),
    ("mmseg-psp", put("psp_modules.1.1", lambda: block(7, 8, 3, padding=1)), "kernel_size=(3, 3), not 1"),
    ("mmseg-psp", put("psp_modules", nn.ModuleList()), "psp_modules is not a ModuleList of levels"),
    ("mmseg-psp", put("input_transform", "multiple_select"), "input_transform is 'multiple_select'"),
    ("mmseg-psp", lambda m: setattr(m, "_transform_inputs", lambda x: x[0]), "own _transform_inputs"),
    ("mmseg-uper", lambda m: m.fpn_convs.append(block(8, 8, 3, padding=1)), "3 lateral convolutions and 4 after them"),
    ("mmseg-uper", put("lateral_convs.0", lambda: block(4, 8, 1, norm=None)), "lateral_convs.0 holds"),
    ("mmseg-uper", put("fpn_bottleneck", lambda: block(31, 8, 3, padding=1)), "takes 31 channels"),
    ("mmseg-uper", put("input_transform", None), "input_transform is None"),
    ("mmseg-hrnetv2", put("concat_input", True), "conv_cat reads the maps again"),
    ("mmseg-hrnetv2", put("convs", nn.Identity()), "convs is not a list of ConvModules"),
    ("mmseg-hrnetv2", put("convs.0", lambda: block(21, 8, 1)), "takes 21 channels, and the maps have 22"),
    ("mmseg-segformer", put("interpolate_mode", "nearest"), "interpolate_mode is 'nearest'"),
    ("mmseg-segformer", put("fusion_conv", lambda: block(24, 8, 1)), "takes 24 channels, and the maps have 32"),
    ("mmseg-aspp", put("aspp_modules", nn.Identity()), "aspp_modules is not a list"),
    ("mmseg-aspp", put("image_pool.0.output_size", 2), "image_pool.0 pools to 2, not 1"),
    ("mmseg-aspp", put("aspp_modules.1.conv.padding", (1, 1)), "1.conv has padding"),
    ("mmseg-aspp", put("bottleneck.conv.dilation", (2, 2)), "bottleneck.conv has padding"),
    ("mmseg-aspp", put("input_transform", "multiple_select"), "input_transform is"),
    ("mmseg-separable", put("aspp_modules.1.pointwise_conv", None), "is a NoneType"),
    ("mmseg-separable", append("aspp_modules", nn.Identity()), "aspp_modules.3 is a Identity"),
    ("mmseg-arm", put("atten_conv_layer.1.activate", nn.ReLU()), "holds ['conv', 'bn', 'activate']"),
    ("mmseg-arm", put("atten_conv_layer.0", nn.AdaptiveAvgPool2d(2)), "pools to 2, not to one mean"),
    ("mmseg-arm", put("atten_conv_layer.2", nn.Hardsigmoid()), "Hardsigmoid"),
    ("mmseg-stdc-ffm", put("attention.1", lambda: block(8, 2, 1)), "'bn', 'activate'], not"),
    ("kazuto1011", put("c1.groups", 3), "c1 has groups=3"),
    ("coincheung-arm", put("conv_atten", nn.Conv2d(8, 8, 3, padding=1)), "kernel_size=(3, 3), not 1"),
    ("coincheung-arm", put("conv_atten", nn.Conv2d(8, 8, 1, groups=2)), "groups=2"),
    ("coincheung-arm", put("conv_atten", nn.Conv2d(8, 1, 1)), "gives 1 gates, and the map has 8"),
    ("coincheung-arm", put("bn_atten", nn.GroupNorm(2, 8)), "a norm is a GroupNorm, not a BatchNorm"),
    ("coincheung-arm", remove("bn_atten"), "bn_atten is not a Module"),
    ("coincheung-ffm", put("convblk.relu", nn.LeakyReLU()), "not a convolution, a norm and a ReLU"),
    ("coincheung-ffm", remove("conv"), "conv is missing, where a Conv2d should be"),
    ("coincheung-ffm", put("convblk", gates.ConvBNReLU(9, 7, 1, 0)), "takes 8 channels, and 7 come in"),
    ("stdc-seg-ffm", put("conv2", nn.Conv2d(3, 8, 1)), "conv2 takes 3 channels, and 2 come in"),
    ("ultralytics-spp", put("m.1", pool(9, 2, 4)), "m.1 has stride=2, not 1"),
    ("ultralytics-spp", put("m.1", pool(9, 1, 3)), "m.1 has padding=3, not 4"),
    ("ultralytics-spp", put("m.1", pool((9, 5), 1, (4, 2))), "m.1 has kernel_size=(9, 5), not 9"),
    ("ultralytics-spp", put("m.1", nn.AvgPool2d(9, 1, 4)), "m.1 is a AvgPool2d, not a MaxPool2d"),
    ("ultralytics-spp", put("m.1", pool(9, 1, 4, ceil_mode=True)), "m.1 has an even window, ceil_mode"),
    ("ultralytics-spp", lambda m: setattr(m, "m", nn.ModuleList(list(m.m)[::-1])), "m pools [13, 9, 5], which do not"),
    ("ultralytics-spp", put("m", nn.ModuleList()), "m is not a ModuleList of pools"),
    ("ultralytics-spp", put("cv3", nn.Identity()), "it holds ['cv1', 'cv2', 'm', 'cv3']"),
    ("ultralytics-sppf", put("m", pool(5, 1, 2, dilation=2)), "m has dilation=2, not 1"),
    ("ultralytics-sppf", put("m", pool(4, 1, 2)), "m has an even window"),
    ("ultralytics-sppf", put("n", 0), "n is 0, not a count of pools"),
    ("ultralytics-sppf", put("cv1", nn.Identity()), "cv1 holds no convolution"),
    ("ultralytics-sppf", own_forward(""), "this instance has its own forward"),
    ("semseg-ppm", put("features.1.0", nn.AvgPool2d(3)), "features.1 holds [AvgPool2d"),
    ("semseg-ppm", put("features.0.3", nn.LeakyReLU(0.01)), "features.0 holds"),
    ("semseg-ppm", put("features.0.2", nn.GroupNorm(1, 2)), "a norm is a GroupNorm, not a BatchNorm"),
    ("research-aspp", norm_between, "convs.1.0 holds [Conv2d, BatchNorm2d, Conv2d]"),
    ("research-aspp", put("convs.0.2", nn.LeakyReLU(0.01)), "convs.0 holds [Conv2d, BatchNorm2d, Leaky"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "reason"), DECLINED)
def test_declines_other_structures(name: str, change: Change, reason: str) -> None:
    module = build(name)
    change(module)
    assert reason in why_skipped(module)
