"""BiSeNet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..backends import Backend
from ..nn.bisenet import conv_norm_relu
from . import base
from .base import Segmenter


class BiSeNet(Segmenter):
    """Two paths: three strided convolutions for detail, a ResNet whose last maps are gated for context.

    x: (N, 3, H, W) -> class scores (N, classes, H, W), upsampled from those at an eighth. In training a tuple of three:
    these, and those of the two context maps alone, whose losses are added. ``scores`` gives all of them at an eighth.

    Classifiers run in front of the upsampling that they follow in the original: with weights of one pixel they commute.
    The context maps go into the fusion at their own size, which upsamples them.

    Args:
        classes: channels of the result, and of the fusion.
        backbone: a ResNet of torchvision, "resnet18" and "resnet101" in the original, or a model of timm.
        width: channels of the first convolution of the detail path; the next two double it.
        fused, backend: as in ``Network``.

    Raises:
        ValueError: naming the argument; an image under 32 px. ImportError: torchvision or timm is not installed.

    Source: Yu et al., BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation, 2018, on ResNets, as
    in ooooverflow/BiSeNet.
    """

    ops = ("channel_gate", "pyramid_conv")
    published_size = (1024, 2048)
    stride = 32

    def __init__(
        self, classes: int = 19, backbone: str = "resnet18", *, width: int = 64, fused: bool = True,
        backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(fused=fused, backend=backend)
        widths = [3, width, 2 * width, 4 * width]
        self.spatial_path = nn.Sequential(*(conv_norm_relu(*pair, 3, stride=2) for pair in pairwise(widths)))
        self.context_path, channels = base.backbone(backbone, stages=(3, 4))
        gate: dict[str, Any] = {"norm": "unused", "bias": True}
        self.attention_refinement_module1 = self.pyramid("AttentionRefinementModule", channels[0], **gate)
        self.attention_refinement_module2 = self.pyramid("AttentionRefinementModule", channels[1], **gate)
        self.supervision1 = nn.Conv2d(channels[0], classes, 1)
        self.supervision2 = nn.Conv2d(channels[1], classes, 1)
        self.feature_fusion_module = self.pyramid(
            "FeatureFusionModule", (widths[-1], *channels), classes, kernel_size=3, hidden=classes, bias=True
        )
        self.conv = nn.Conv2d(classes, classes, 1)

    def scores(self, x: Tensor) -> list[Tensor]:
        """Class scores at an eighth of the image: the network's and, in training, those of both context maps."""
        detail, (fine, coarse) = self.spatial_path(x), self.context_path(x)
        tail = coarse.mean((2, 3), keepdim=True)
        fine, coarse = self.attention_refinement_module1(fine), self.attention_refinement_module2(coarse) * tail
        found = [self.conv(self.feature_fusion_module(detail, fine, coarse))]
        if self.training:
            found += self._upsampled([self.supervision1(fine), self.supervision2(coarse)], detail)
        return found

    def logits(self, x: Tensor) -> Tensor:
        return self.scores(x)[0]

    def forward(self, x: Tensor) -> Any:
        self.check_image(x)
        full = self._upsampled(self.scores(x), x)
        return tuple(full) if self.training else full[0]

    @staticmethod
    def _upsampled(maps: Sequence[Tensor], like: Tensor) -> list[Tensor]:
        return [F.interpolate(m, like.shape[2:], mode="bilinear") for m in maps]
