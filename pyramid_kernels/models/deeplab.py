"""DeepLab, from the first version to v3+."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..backends import Backend
from . import base
from .base import Network, Segmenter

#: torchvision's names of their layers.
VGGS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}


def dilated_vgg(name: str, first_pool: nn.MaxPool2d) -> nn.Sequential:
    """The layers of a VGG under torchvision's keys, at output stride 8.

    ``first_pool`` stands for each of the first three pools; the other two keep the size, and conv5 has dilation 2.
    """
    if name not in tuple(VGGS):
        raise base.unknown_backbone(name, VGGS, f"one of {', '.join(VGGS)}")
    vgg = base.library("torchvision").models.vgg
    layers = vgg.make_layers(vgg.cfgs[VGGS[name]])
    pools = 0
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.MaxPool2d):
            pools += 1
            layers[i] = first_pool if pools <= 3 else nn.MaxPool2d(3, 1, 1)
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            if pools == 4:
                layer.dilation = layer.padding = (2, 2)
    return layers


class DeepLabV1(Network):
    """VGG-16 with dilations for its last strides, and a classifier with a large field of view.

    x: (N, 3, H, W) -> class scores, of ceil((H - 1) / 8) + 1 rows and of columns alike, for every pool rounds up behind
    its padding: (21, 41, 41) of an image of 321 px, or of 320. ``predict`` aligns their corners with the image's
    (``align_corners``), as in the paper's code.

    Args:
        classes: channels of the result.
        backbone: "vgg11", "vgg13", "vgg16" or "vgg19".
        hidden, rate, dropout: of ``nn.LargeFOV``.
        fused, backend: as in ``Network``.

    Raises:
        ValueError: naming the argument; an image under 8 px. ImportError: torchvision is not installed.

    Source: Chen et al., Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs, 2015
    (DeepLab-LargeFOV, without the CRF).
    """

    ops = ("dilated_branches",)
    published_size = (321, 321)
    stride = 8
    align_corners = True

    def __init__(
        self, classes: int = 21, backbone: str = "vgg16", *, hidden: int = 1024, rate: int = 12, dropout: float = 0.5,
        fused: bool = True, backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(fused=fused, backend=backend)
        self.features = dilated_vgg(backbone, nn.MaxPool2d(3, 2, 1, ceil_mode=True))
        self.classifier = self.pyramid("LargeFOV", 512, classes, hidden=hidden, rate=rate, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        self.check_image(x)
        return self.classifier(self.features(x))


def even_rates_(resnet: nn.Module) -> None:
    """Give the first 3x3 of both dilated stages its stage's rate: torchvision's has that of the stage before."""
    stages: Any = [resnet.layer3, resnet.layer4]
    for first, second, *_ in stages:
        first.conv2.dilation = first.conv2.padding = second.conv2.dilation


class DeepLabV2(Network):
    """A dilated ResNet or VGG at output stride 8, and a sum of branches with several fields of view.

    A ResNet of torchvision has rate 2 in all of layer3 and rate 4 in all of layer4, as in the paper's code.

    x: (N, 3, H, W) -> class scores at an eighth: (21, 41, 41) of an image of 321 px on a ResNet, which rounds up, and
    (21, 28, 28) of one of 224 px on a VGG, which rounds down. ``predict`` aligns their corners with the image's
    (``align_corners``) on a ResNet, as in the paper's code; the VGG's even pools are centred between pixels.

    Args:
        classes: channels of the result.
        backbone: a ResNet of torchvision, a model of timm that takes output stride 8, or a VGG as in ``DeepLabV1``.
        rates: dilations of the branches.
        hidden: channels within the branches on a VGG, which have two 1x1 more.
        fused, backend: as in ``Network``.

    Raises:
        ValueError: naming the argument; an image under 8 px. ImportError: torchvision or timm is not installed.

    Source: Chen et al., DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and
    Fully Connected CRFs, 2016 (without the CRF).
    """

    ops = ("dilated_branches",)
    published_size = (321, 321)
    stride = 8

    def __init__(
        self, classes: int = 21, backbone: str = "resnet101", *, rates: Sequence[int] = (6, 12, 18, 24),
        hidden: int = 128, fused: bool = True, backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(fused=fused, backend=backend)
        vgg = backbone in tuple(VGGS)
        self.align_corners = not vgg
        if vgg:
            self.backbone: nn.Module = dilated_vgg(backbone, nn.MaxPool2d(2, 2))
            channels = 512
        else:
            self.backbone, (channels,) = base.backbone(backbone, output_stride=8, stages=(4,))
            if backbone in base.RESNETS:
                even_rates_(self.backbone)
        self.classifier = self.pyramid("ASPPv2", channels, classes, rates, hidden=hidden if vgg else None)

    def forward(self, x: Tensor) -> Tensor:
        self.check_image(x)
        features = self.backbone(x)
        return self.classifier(features if isinstance(features, Tensor) else features[-1])


def rates_of(output_stride: int) -> tuple[int, ...]:
    """The dilations of v3's branches: 6, 12 and 18 at output stride 16, twice that at 8."""
    return tuple(rate * 16 // output_stride for rate in (6, 12, 18))


class DeepLabV3(Segmenter):
    """A dilated ResNet, atrous spatial pyramid pooling beside image-level features, a 3x3 and a classifier.

    x: (N, 3, H, W) -> class scores (N, classes, H, W), upsampled (half-pixel) from those at the output stride: for an
    image of 513 px the ASPP's map has 33. Keys of torchvision's ``deeplabv3_resnet...`` on its ResNets.

    Args:
        classes: channels of the result.
        backbone: a ResNet of torchvision, or a model of timm that takes the output stride.
        output_stride: 16 or 8; with it go the rates of the ASPP, 6, 12, 18 at 16 and twice that at 8.
        width: channels of the ASPP and of the 3x3 behind it.
        dropout: behind the ASPP.
        fused, backend: as in ``Network``.

    Raises:
        ValueError: naming the argument; an image smaller than the output stride; PyTorch's "Expected more than 1 value
            per channel when training" for a batch of one. ImportError: torchvision or timm is not installed.

    Source: Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017.
    """

    ops = ("dilated_branches",)
    published_size = (513, 513)

    def __init__(
        self, classes: int = 21, backbone: str = "resnet101", *, output_stride: int = 16, width: int = 256,
        dropout: float = 0.5, fused: bool = True, backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(fused=fused, backend=backend)
        self.stride = output_stride
        self.backbone, (channels,) = base.backbone(backbone, output_stride=output_stride, stages=(4,))
        self.classifier = nn.Sequential(
            self.pyramid("ASPP", channels, rates_of(output_stride), width, dropout=dropout),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, classes, 1),
        )

    def logits(self, x: Tensor) -> Tensor:
        return self.classifier(self.backbone(x)[-1])


class DeepLabV3Plus(Segmenter):
    """DeepLab v3's ASPP, its result upsampled beside a narrow map of the first stage, a 3x3 over both, a classifier.

    x: (N, 3, H, W) -> class scores (N, classes, H, W), upsampled from those at a quarter: for an image of 513 px the
    ASPP's map has 33, the decoder's 129.

    Args:
        classes, backbone, output_stride, width, dropout: as in ``DeepLabV3``; ``width`` is the decoder's as well.
        low_width: channels of the first stage's map beside the upsampled one.
        align_corners: of both upsamplings.
        low_first: the first stage's map comes first in the concat.
        fused, backend: as in ``Network``.

    Raises:
        As ``DeepLabV3``.

    Source: Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, 2018.
    """

    ops = ("dilated_branches", "pyramid_conv")
    published_size = (513, 513)

    def __init__(
        self, classes: int = 21, backbone: str = "resnet101", *, output_stride: int = 16, width: int = 256,
        dropout: float = 0.5, low_width: int = 48, align_corners: bool = True, low_first: bool = True,
        fused: bool = True, backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(fused=fused, backend=backend)
        self.stride, self.align_corners = output_stride, align_corners
        self.backbone, (low, channels) = base.backbone(backbone, output_stride=output_stride, stages=(1, 4))
        self.decoder = self.pyramid(
            "DeepLabV3PlusDecoder", channels, low, width, rates_of(output_stride), low_width=low_width,
            separable=False, dropout=dropout, align_corners=align_corners, low_first=low_first, low_index=0,
            refine=False,
        )  # fmt: skip
        self.classifier = nn.Conv2d(width, classes, 1)

    def logits(self, x: Tensor) -> Tensor:
        return self.classifier(self.decoder(self.backbone(x)))
