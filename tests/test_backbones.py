"""The backbones of the networks: strides, rates, and the names that they refuse."""

import re
from typing import Any

import pytest
import torch

from pyramid_kernels.models import backbone, networks
from pyramid_kernels.models.base import library

for name in ("torchvision", "timm"):
    pytest.importorskip(name, reason=f"needs {name}")


@pytest.mark.parametrize("name", ["resnet50", "test_resnet"])  # torchvision's, timm's
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_stages_of_a_backbone(name, output_stride):
    with torch.device("meta"):
        net, channels = backbone(name, output_stride=output_stride, stages=(1, 3, 4))
        maps = net(torch.empty(2, 3, 64, 96))
    strides = [min(stride, output_stride) for stride in (4, 16, 32)]
    assert [tuple(m.shape) for m in maps] == [(2, c, 64 // s, 96 // s) for c, s in zip(channels, strides, strict=True)]


VGGS = "one of vgg11, vgg13, vgg16, vgg19"
#: The network, its backbone, the error, and the pattern of all that it says; "..." in it is any words.
BACKBONES: dict[str, tuple[str, Any, type[Exception], str]] = {
    "unknown": ("PSPNet", "resnet5", ValueError, "be a model of torchvision or timm, got 'resnet5'; near it: ..."),
    "nothing-near": ("BiSeNet", "?", ValueError, "be a model of torchvision or timm, got '?'"),
    "vgg": ("DeepLabV1", "vgg61", ValueError, f"be {VGGS}, got 'vgg61'; near it: ..."),
    "none": ("DeepLabV3", None, TypeError, "be the name of a model of torchvision or timm, got None"),
    "list-v1": ("DeepLabV1", ["vgg16"], TypeError, f"be the name of {VGGS}, got ['vgg16']"),
    "list-v2": ("DeepLabV2", ["vgg16"], TypeError, "be the name of a model of torchvision or timm, got ['vgg16']"),
    "assertion": (
        "DeepLabV2", "vgg16_bn", ValueError,
        "give maps at output stride 8, got 'vgg16_bn', which does not (its library does not say why); resnet50 does",
    ),
    "argument": (
        "DeepLabV3", "vit_tiny_patch16_224", ValueError,
        "give maps at output stride 16, got 'vit_tiny_patch16_224', which does not (...); resnet50 does",
    ),
    "basic-blocks": (
        "DeepLabV3Plus", "resnet18", ValueError,
        "give maps at output stride 16, got 'resnet18', which does not (...BasicBlock); resnet50 does",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BACKBONES)
def test_networks_name_the_backbone_that_they_refuse(case: str) -> None:
    name, given, error, pattern = BACKBONES[case]
    with torch.device("meta"), pytest.raises(error) as raised:
        networks()[name](backbone=given)
    message = str(raised.value)
    assert re.fullmatch("backbone must " + re.escape(pattern).replace(r"\.\.\.", ".+"), message), message
    near = message.partition("near it: ")[2].split(", ")
    assert len(set(near)) == len(near)


def test_output_strides_and_stages_that_are_none():
    with pytest.raises(ValueError, match="output_stride must be 8, 16 or 32, got 4"):
        backbone("resnet50", output_stride=4)
    with pytest.raises(ValueError, match=r"stages must be some of 1, 2, 3 and 4, ascending, got \(4, 1\)"):
        backbone("resnet50", stages=(4, 1))
    with pytest.raises(ImportError, match=r"needs no_such_library; pip install 'pyramid_kernels\[models\]'"):
        library("no_such_library")


@pytest.mark.parametrize(("name", "firsts"), [("DeepLabV2", (2, 4)), ("DeepLabV3", (1, 2)), ("PSPNet", (1, 2))])
def test_dilations_of_a_resnet_at_output_stride_8(name: str, firsts: tuple[int, int]) -> None:
    """DeepLab v2 as in its paper's code, the others as in torchvision."""
    settings = {"output_stride": 8} if name == "DeepLabV3" else {}
    with torch.device("meta"):
        layers = networks()[name](backbone="resnet50", **settings).backbone
    found = [[block.conv2 for block in getattr(layers, f"layer{i}")] for i in (1, 2, 3, 4)]
    expected = [[1] * 3, [1] * 4, [firsts[0]] + [2] * 5, [firsts[1]] + [4] * 2]
    assert [[conv.dilation for conv in convs] for convs in found] == [[(r, r) for r in rates] for rates in expected]
    assert all(conv.padding == conv.dilation for convs in found for conv in convs)
