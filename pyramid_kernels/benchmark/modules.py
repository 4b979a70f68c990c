"""The modules that are timed beside the ops: what a user of ``fuse_`` has before, at shapes of published models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from .. import nn

RESNET, RESNET18 = (256, 512, 1024, 2048), (64, 128, 256, 512)


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


def widths(width: int) -> list[int]:
    """The channels of HRNet's four maps."""
    return [width << i for i in range(4)]


def deeplab_decoder(shape: str, channels: int, low: int, size: int, high: int) -> Build:
    """``size`` and ``high``: of the map that the decoder joins, and of the one it upsamples."""
    make = partial(nn.ReferenceDeepLabV3PlusDecoder, channels, low, separable=False, low_index=0, dropout=0.0)
    return Build(shape, make, [(low, size, size), (channels, high, high)])


def ffm(shape: str, widths: Sequence[int], classes: int, rows: int, cols: int) -> Build:
    """The form of BiSeNet's first version: 3x3, straight to the classes; the context maps at their own size."""
    make = partial(nn.ReferenceFeatureFusionModule, widths, classes, kernel_size=3, hidden=classes, bias=True)
    return Build(shape, make, pyramid(widths, rows, cols))


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
        Build("2048-33x33-r12", partial(nn.ReferenceASPP, 2048, (12, 24, 36), dropout=0.0), (2048, 33, 33)),
        Build("960-33x33-r12", partial(nn.ReferenceASPP, 960, (12, 24, 36), dropout=0.0), (960, 33, 33)),
        Build("512-32x32-r6", partial(nn.ReferenceASPP, 512, (6, 12, 18), dropout=0.0), (512, 32, 32)),
    ],
    "nn.ASPPv2": [
        Build("2048-65x65", partial(nn.ReferenceASPPv2, 2048, 21), (2048, 65, 65)),
        Build("vgg-512-41x41", partial(nn.ReferenceASPPv2, 512, 21, hidden=128), (512, 41, 41)),
    ],
    "nn.LargeFOV": [Build("512-41x41", partial(nn.ReferenceLargeFOV, 512, 21, dropout=0.0), (512, 41, 41))],
    "nn.SpatialPyramidPooling": [
        Build("512-109x109", nn.ReferenceSpatialPyramidPooling, (512, 109, 109)),
        Build("256-13x13", nn.ReferenceSpatialPyramidPooling, (256, 13, 13)),
    ],
    "nn.HRFuse": [
        Build("w32-pose-64x48", partial(nn.ReferenceHRFuse, widths(32)), pyramid(widths(32), 64, 48)),
        Build("w48-128x256", partial(nn.ReferenceHRFuse, widths(48), mode="bilinear"), pyramid(widths(48), 128, 256)),
    ],
    "nn.PPM": [
        Build("2048-60x60", partial(nn.ReferencePPM, 2048, 512), (2048, 60, 60)),
        Build("768-16x16", partial(nn.ReferencePPM, 768, 192), (768, 16, 16)),
    ],
    "nn.DSPP": [Build("512-12x16", partial(nn.ReferenceDSPP, 512), (512, 12, 16), images) for images in (1, 16)],
    "nn.MDSPP": [
        Build("64-12x16", partial(nn.ReferenceMDSPP, 64, 64), (64, 12, 16), images=1),
        Build("32-24x32", partial(nn.ReferenceMDSPP, 32, 32), (32, 24, 32), images=1),
    ],
    "nn.PSPHead": [Build("2048-60x60", partial(nn.ReferencePSPHead, 2048, 150, dropout=0.0), (2048, 60, 60))],
    "nn.UPerHead": [
        Build("resnet-512-64x64", partial(nn.ReferenceUPerHead, RESNET, 512, 150), pyramid(RESNET, 64, 64))
    ],
    "nn.DeepLabV3PlusDecoder": [deeplab_decoder("2048-256-129x129", 2048, 256, 129, 33)],
    "nn.HRNetV2Head": [
        Build("w48-128x128", partial(nn.ReferenceHRNetV2Head, widths(48), 19), pyramid(widths(48), 128, 128))
    ],
    "nn.SPP": [Build("1024-20x20", partial(nn.ReferenceSPP, 1024, 1024), (1024, 20, 20))],
    "nn.SPPF": [
        Build("512-20x20", partial(nn.ReferenceSPPF, 512, 512), (512, 20, 20)),
        Build("1024-40x40", partial(nn.ReferenceSPPF, 1024, 1024), (1024, 40, 40)),
    ],
    "nn.AttentionRefinementModule": [
        Build("256-to-128-64x128", partial(nn.ReferenceAttentionRefinementModule, 256, 128), (256, 64, 128))
    ],
    "nn.FeatureFusionModule": [ffm("resnet18-128x256", (256, 256, 512), 19, 128, 256)],
    "transformers.SegformerDecodeHead": [
        segformer_head("b0-128x128", (32, 64, 160, 256), 256, 128),
        segformer_head("b5-128x128", (64, 128, 320, 512), 768, 128),
    ],
}

#: What ``--quick`` times where none of the above takes a CPU less than a second in training.
QUICK: dict[str, Build] = {
    "nn.LargeFOV": Build("512-21x21", partial(nn.ReferenceLargeFOV, 512, 21, dropout=0.0), (512, 21, 21)),
    "nn.PSPHead": Build("512-28x28", partial(nn.ReferencePSPHead, 512, 150, dropout=0.0), (512, 28, 28)),
    "nn.UPerHead": Build(
        "resnet18-256-32x32", partial(nn.ReferenceUPerHead, RESNET18, 256, 150), pyramid(RESNET18, 32, 32)
    ),
    "nn.DeepLabV3PlusDecoder": deeplab_decoder("320-24-65x65", 320, 24, 65, 17),
    "nn.HRNetV2Head": Build("w18-64x64", partial(nn.ReferenceHRNetV2Head, widths(18), 19), pyramid(widths(18), 64, 64)),
    "nn.FeatureFusionModule": ffm("resnet18-64x128", (256, 256, 512), 19, 64, 128),
    "transformers.SegformerDecodeHead": segformer_head("b0-64x64", (32, 64, 160, 256), 256, 64),
}
