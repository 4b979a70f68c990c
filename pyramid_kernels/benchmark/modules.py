"""The modules that are timed beside the ops: what a user of ``fuse_`` has before, at shapes of published models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from .. import nn

RESNET = (256, 512, 1024, 2048)


class Build(NamedTuple):
    """A module of a user: what makes it, and the map that it takes or every map of its list, each (C, H, W)."""

    shape: str  # the case's name, but for its images
    make: Callable[[], Any]
    maps: tuple[int, ...] | list[tuple[int, ...]]
    images: int = 2  # a norm in training needs two values of a channel, also behind a global pooling

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return self.maps if isinstance(self.maps, list) else [self.maps]

    @property
    def case(self) -> str:
        return f"{self.shape}-n{self.images}"


def pyramid(widths: Sequence[int], rows: int, cols: int) -> list[tuple[int, ...]]:
    """The maps of a backbone, each half as large as the one before."""
    return [(c, rows >> i, cols >> i) for i, c in enumerate(widths)]


def aspp(shape: str, channels: int, size: int, rates: tuple[int, ...]) -> Build:
    return Build(shape, lambda: nn.ReferenceASPP(channels, rates, dropout=0.0), (channels, size, size))


def aspp_v2(shape: str, channels: int, size: int, hidden: int | None = None) -> Build:
    return Build(shape, lambda: nn.ReferenceASPPv2(channels, 21, hidden=hidden), (channels, size, size))


def large_fov(shape: str, size: int) -> Build:
    return Build(shape, lambda: nn.ReferenceLargeFOV(512, 21, dropout=0.0), (512, size, size))


def spp_net(shape: str, channels: int, size: int) -> Build:
    return Build(shape, nn.ReferenceSpatialPyramidPooling, (channels, size, size))


def hr_fuse(shape: str, width: int, rows: int, cols: int, mode: str) -> Build:
    """``rows`` and ``cols``: of the finest of four maps."""
    widths = [width << i for i in range(4)]
    return Build(shape, lambda: nn.ReferenceHRFuse(widths, mode=mode), pyramid(widths, rows, cols))


def ppm(shape: str, channels: int, rows: int, cols: int) -> Build:
    return Build(shape, lambda: nn.ReferencePPM(channels, channels // 4, (1, 2, 3, 6)), (channels, rows, cols))


def dspp(shape: str, images: int) -> Build:
    return Build(shape, lambda: nn.ReferenceDSPP(512, 128), (512, 12, 16), images)


def mdspp(shape: str, channels: int, rows: int, cols: int) -> Build:
    return Build(shape, lambda: nn.ReferenceMDSPP(channels, channels), (channels, rows, cols), images=1)


def psp_head(shape: str, channels: int, classes: int, size: int) -> Build:
    return Build(shape, lambda: nn.ReferencePSPHead(channels, classes, dropout=0.0), (channels, size, size))


def uper_head(shape: str, widths: Sequence[int], channels: int, size: int) -> Build:
    return Build(shape, lambda: nn.ReferenceUPerHead(widths, channels, 150), pyramid(widths, size, size))


def deeplab_decoder(shape: str, channels: int, low: int, size: int, high: int) -> Build:
    """``size`` and ``high``: of the map that the decoder joins, and of the one it upsamples."""
    settings: dict[str, Any] = {"separable": False, "low_index": 0, "dropout": 0.0}
    maps: list[tuple[int, ...]] = [(low, size, size), (channels, high, high)]
    return Build(shape, lambda: nn.ReferenceDeepLabV3PlusDecoder(channels, low, **settings), maps)


def hrnetv2_head(shape: str, width: int, size: int) -> Build:
    widths = [width << i for i in range(4)]
    return Build(shape, lambda: nn.ReferenceHRNetV2Head(widths, 19), pyramid(widths, size, size))


def arm(shape: str, channels: int, out_channels: int, rows: int, cols: int) -> Build:
    return Build(shape, lambda: nn.ReferenceAttentionRefinementModule(channels, out_channels), (channels, rows, cols))


def ffm(shape: str, widths: Sequence[int], classes: int, rows: int, cols: int) -> Build:
    """The form of BiSeNet's first version: 3x3, straight to the classes; the context maps at their own size."""
    settings: dict[str, Any] = {"kernel_size": 3, "hidden": classes, "bias": True}
    maps = pyramid(widths, rows, cols)
    return Build(shape, lambda: nn.ReferenceFeatureFusionModule(widths, classes, **settings), maps)


def spp(shape: str, channels: int, size: int) -> Build:
    return Build(shape, lambda: nn.ReferenceSPP(channels, channels), (channels, size, size))


def sppf(shape: str, channels: int, size: int) -> Build:
    return Build(shape, lambda: nn.ReferenceSPPF(channels, channels), (channels, size, size))


def segformer_head(shape: str, widths: Sequence[int], channels: int, size: int) -> Build:
    """transformers' own class."""

    def make() -> Any:
        define_detection_schemas()
        from transformers import SegformerConfig
        from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

        config = SegformerConfig(hidden_sizes=list(widths), decoder_hidden_size=channels, classifier_dropout_prob=0.0)
        config.num_labels = 150
        return SegformerDecodeHead(config)

    return Build(shape, make, pyramid(widths, size, size))


@functools.lru_cache
def define_detection_schemas() -> Any:
    """torchvision's wheel registers these two from C++ that a CPU build of torch cannot load."""
    try:
        torch.ops.torchvision.nms  # noqa: B018
    except (AttributeError, RuntimeError):
        library = torch.library.Library("torchvision", "FRAGMENT")  # noqa: TOR901
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library  # kept: it undoes its definitions when it is collected
    return None


MODULES: dict[str, list[Build]] = {
    "nn.ASPP": [
        aspp("2048-33x33-r12", 2048, 33, (12, 24, 36)),
        aspp("960-33x33-r12", 960, 33, (12, 24, 36)),
        aspp("512-32x32-r6", 512, 32, (6, 12, 18)),
    ],
    "nn.ASPPv2": [aspp_v2("2048-65x65", 2048, 65), aspp_v2("vgg-512-41x41", 512, 41, 128)],
    "nn.LargeFOV": [large_fov("512-41x41", 41)],
    "nn.SpatialPyramidPooling": [spp_net("512-109x109", 512, 109), spp_net("256-13x13", 256, 13)],
    "nn.HRFuse": [
        hr_fuse("w32-pose-64x48", 32, 64, 48, "nearest"),
        hr_fuse("w48-128x256", 48, 128, 256, "bilinear"),
    ],
    "nn.PPM": [ppm("2048-60x60", 2048, 60, 60), ppm("768-16x16", 768, 16, 16)],
    "nn.DSPP": [dspp("512-12x16", 1), dspp("512-12x16", 16)],
    "nn.MDSPP": [mdspp("64-12x16", 64, 12, 16), mdspp("32-24x32", 32, 24, 32)],
    "nn.PSPHead": [psp_head("2048-60x60", 2048, 150, 60)],
    "nn.UPerHead": [uper_head("resnet-512-64x64", RESNET, 512, 64)],
    "nn.DeepLabV3PlusDecoder": [deeplab_decoder("2048-256-129x129", 2048, 256, 129, 33)],
    "nn.HRNetV2Head": [hrnetv2_head("w48-128x128", 48, 128)],
    "nn.SPP": [spp("1024-20x20", 1024, 20)],
    "nn.SPPF": [sppf("512-20x20", 512, 20), sppf("1024-40x40", 1024, 40)],
    "nn.AttentionRefinementModule": [arm("256-to-128-64x128", 256, 128, 64, 128)],
    "nn.FeatureFusionModule": [ffm("resnet18-128x256", (256, 256, 512), 19, 128, 256)],
    "transformers.SegformerDecodeHead": [
        segformer_head("b0-128x128", (32, 64, 160, 256), 256, 128),
        segformer_head("b5-128x128", (64, 128, 320, 512), 768, 128),
    ],
}

#: What ``--quick`` times where none of the above takes a CPU less than a second in training.
QUICK: dict[str, Build] = {
    "nn.LargeFOV": large_fov("512-21x21", 21),
    "nn.PSPHead": psp_head("512-28x28", 512, 150, 28),
    "nn.UPerHead": uper_head("resnet18-256-32x32", (64, 128, 256, 512), 256, 32),
    "nn.DeepLabV3PlusDecoder": deeplab_decoder("320-24-65x65", 320, 24, 65, 17),
    "nn.HRNetV2Head": hrnetv2_head("w18-64x64", 18, 64),
    "nn.FeatureFusionModule": ffm("resnet18-64x128", (256, 256, 512), 19, 64, 128),
    "transformers.SegformerDecodeHead": segformer_head("b0-64x64", (32, 64, 160, 256), 256, 64),
}
