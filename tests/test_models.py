"""The networks: backbones, images they refuse."""

from __future__ import annotations

import pytest
import torch

from pyramid_kernels.models import Network, backbone
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


def test_backbones_that_are_none():
    with pytest.raises(ValueError, match="name must be a backbone of torchvision or timm, got 'resnet5'; near it: .*"):
        backbone("resnet5")
    with pytest.raises(ValueError, match="output_stride must be 8, 16 or 32, got 4"):
        backbone("resnet50", output_stride=4)
    with pytest.raises(ValueError, match=r"stages must be some of 1, 2, 3 and 4, ascending, got \(4, 1\)"):
        backbone("resnet50", stages=(4, 1))
    with pytest.raises(ImportError, match=r"needs no_such_library; pip install 'pyramid_kernels\[models\]'"):
        library("no_such_library")


def test_image_smaller_than_the_stride():
    network = Network()
    network.stride = 32
    network.check_image(torch.zeros(1, 3, 32, 33))
    with pytest.raises(ValueError, match="at least 32x32 px, the stride of Network, got 31x40; resize or pad them"):
        network.check_image(torch.zeros(1, 3, 31, 40))
