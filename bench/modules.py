"""The modules that are timed beside the ops: what a user of ``fuse_`` has before, at shapes of published models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pyramid_kernels import nn

#: A module in plain PyTorch, and the shape of the map that it takes, or of every map.
Build = Callable[[], tuple[Any, tuple[int, ...] | list[tuple[int, ...]]]]

RESNET = (256, 512, 1024, 2048)


def pyramid(widths: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """Two images' maps of a backbone, each half as large as the one before."""
    return [(2, c, size >> i, size >> i) for i, c in enumerate(widths)]


def aspp(channels: int, size: int, rates: tuple[int, ...]) -> Build:
    return lambda: (nn.ReferenceASPP(channels, rates, dropout=0.0), (2, channels, size, size))


def aspp_v2(channels: int, size: int, hidden: int | None = None) -> Build:
    return lambda: (nn.ReferenceASPPv2(channels, 21, hidden=hidden), (2, channels, size, size))


def large_fov(size: int) -> Build:
    return lambda: (nn.ReferenceLargeFOV(512, 21, dropout=0.0), (2, 512, size, size))


def spp_net(channels: int, size: int) -> Build:
    return lambda: (nn.ReferenceSpatialPyramidPooling(), (2, channels, size, size))


def hr_fuse(width: int, rows: int, cols: int, mode: str) -> Build:
    """``rows`` and ``cols``: of the finest of four maps."""
    widths = [width << i for i in range(4)]
    maps: list[tuple[int, ...]] = [(2, c, rows >> i, cols >> i) for i, c in enumerate(widths)]
    return lambda: (nn.ReferenceHRFuse(widths, mode=mode), maps)


def ppm(channels: int, rows: int, cols: int) -> Build:
    return lambda: (nn.ReferencePPM(channels, channels // 4, (1, 2, 3, 6)), (2, channels, rows, cols))


def dspp(images: int) -> Build:
    return lambda: (nn.ReferenceDSPP(512, 128), (images, 512, 12, 16))


def mdspp(channels: int, rows: int, cols: int) -> Build:
    return lambda: (nn.ReferenceMDSPP(channels, channels), (1, channels, rows, cols))


def psp_head(channels: int, classes: int, size: int) -> Build:
    return lambda: (nn.ReferencePSPHead(channels, classes, dropout=0.0), (2, channels, size, size))


def uper_head(widths: Sequence[int], channels: int, size: int) -> Build:
    return lambda: (nn.ReferenceUPerHead(widths, channels, 150), pyramid(widths, size))


def deeplab_decoder(channels: int, low: int, size: int, high: int) -> Build:
    """``size`` and ``high``: of the map that the decoder joins, and of the one it upsamples."""
    maps: list[tuple[int, ...]] = [(2, low, size, size), (2, channels, high, high)]
    return lambda: (nn.ReferenceDeepLabV3PlusDecoder(channels, low, separable=False, low_index=0, dropout=0.0), maps)


def hrnetv2_head(width: int, size: int) -> Build:
    widths = [width << i for i in range(4)]
    return lambda: (nn.ReferenceHRNetV2Head(widths, 19), pyramid(widths, size))


def arm(in_channels: int, out_channels: int, rows: int, cols: int) -> Build:
    return lambda: (nn.ReferenceAttentionRefinementModule(in_channels, out_channels), (2, in_channels, rows, cols))


def ffm(widths: Sequence[int], classes: int, rows: int, cols: int) -> Build:
    """The form of BiSeNet's first version: 3x3, straight to the classes; the context maps at their own size."""
    maps: list[tuple[int, ...]] = [(2, c, rows >> i, cols >> i) for i, c in enumerate(widths)]
    return lambda: (nn.ReferenceFeatureFusionModule(widths, classes, kernel_size=3, hidden=classes, bias=True), maps)


def spp(channels: int, size: int) -> Build:
    return lambda: (nn.ReferenceSPP(channels, channels), (2, channels, size, size))


def sppf(channels: int, size: int) -> Build:
    return lambda: (nn.ReferenceSPPF(channels, channels), (2, channels, size, size))


def segformer_head(widths: Sequence[int], channels: int, size: int) -> Build:
    """transformers' own class."""

    def build() -> Any:
        define_detection_schemas()
        from transformers import SegformerConfig
        from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

        config = SegformerConfig(hidden_sizes=list(widths), decoder_hidden_size=channels, classifier_dropout_prob=0.0)
        config.num_labels = 150
        return SegformerDecodeHead(config), pyramid(widths, size)

    return build


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


MODULES: dict[str, dict[str, Build]] = {
    "nn.ASPP": {
        "2048-33x33-r12": aspp(2048, 33, (12, 24, 36)),
        "960-33x33-r12": aspp(960, 33, (12, 24, 36)),
        "512-32x32-r6": aspp(512, 32, (6, 12, 18)),
    },
    "nn.ASPPv2": {"2048-65x65": aspp_v2(2048, 65), "vgg-512-41x41": aspp_v2(512, 41, 128)},
    "nn.LargeFOV": {"512-41x41": large_fov(41)},
    "nn.SpatialPyramidPooling": {"512-109x109": spp_net(512, 109), "256-13x13": spp_net(256, 13)},
    "nn.HRFuse": {
        "w32-pose-64x48": hr_fuse(32, 64, 48, "nearest"),
        "w48-128x256": hr_fuse(48, 128, 256, "bilinear"),
    },
    "nn.PPM": {"2048-60x60": ppm(2048, 60, 60), "768-16x16": ppm(768, 16, 16)},
    "nn.DSPP": {"n1": dspp(1), "n16": dspp(16)},
    "nn.MDSPP": {"64-12x16": mdspp(64, 12, 16), "32-24x32": mdspp(32, 24, 32)},
    "nn.PSPHead": {"2048-60x60": psp_head(2048, 150, 60)},
    "nn.UPerHead": {"resnet-512-64x64": uper_head(RESNET, 512, 64)},
    "nn.DeepLabV3PlusDecoder": {"2048-256-129x129": deeplab_decoder(2048, 256, 129, 33)},
    "nn.HRNetV2Head": {"w48-128x128": hrnetv2_head(48, 128)},
    "nn.SPP": {"1024-20x20": spp(1024, 20)},
    "nn.SPPF": {"512-20x20": sppf(512, 20), "1024-40x40": sppf(1024, 40)},
    "nn.AttentionRefinementModule": {"256-to-128-64x128": arm(256, 128, 64, 128)},
    "nn.FeatureFusionModule": {"resnet18-128x256": ffm((256, 256, 512), 19, 128, 256)},
    "transformers.SegformerDecodeHead": {
        "b0-128x128": segformer_head((32, 64, 160, 256), 256, 128),
        "b5-128x128": segformer_head((64, 128, 320, 512), 768, 128),
    },
}
