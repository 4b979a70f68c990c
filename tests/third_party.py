"""Classes as users have them: pyramid modules of well-known repositories in our own words, and look-alikes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyramid_kernels.nn import ReferenceASPP


class SemsegPPM(nn.Module):
    """hszhao/semseg: x first, then every level, corners aligned."""

    corners = True

    def __init__(self, in_dim: int, reduction_dim: int, bins: tuple[int, ...]) -> None:
        super().__init__()
        self.features = nn.ModuleList()
        for size in bins:
            conv = nn.Conv2d(in_dim, reduction_dim, kernel_size=1, bias=False)
            level = (nn.AdaptiveAvgPool2d(size), conv, nn.BatchNorm2d(reduction_dim), nn.ReLU(inplace=True))
            self.features.append(nn.Sequential(*level))

    def forward(self, x: Tensor) -> Tensor:
        out = [x]
        for level in self.features:
            out.append(F.interpolate(level(x), x.shape[2:], mode="bilinear", align_corners=self.corners))
        return torch.cat(out, 1)


class SemsegPSPNet(nn.Module):
    """The head of semseg's PSPNet: ``ppm`` and ``cls``."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.ppm = SemsegPPM(dim, dim // 4, (1, 2, 3, 6))
        conv = nn.Conv2d(2 * dim, 16, kernel_size=3, padding=1, bias=False)
        self.cls = nn.Sequential(
            conv, nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.Dropout2d(0.1), nn.Conv2d(16, classes, kernel_size=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cls(self.ppm(x))


class HalfPixelPPM(SemsegPPM):
    """Same parameters and structure, another grid convention."""

    corners = False

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class ReversedPPM(SemsegPPM):
    """Same parameters and structure, the levels concatenated from the finest grid on (PaddleSeg, Caffe's PSPNet)."""

    def forward(self, x: Tensor) -> Tensor:
        x, *levels = super().forward(x).split([x.shape[1], *(level[1].out_channels for level in self.features)], 1)
        return torch.cat([x, *levels[::-1]], 1)


class ResearchASPP(nn.Module):
    """torchvision's layout under a class of its own, as in many repositories."""

    def __init__(self, in_channels: int, rates: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        like = ReferenceASPP(in_channels, rates, out_channels)
        self.convs, self.project = like.convs, like.project

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([conv(x) for conv in self.convs], dim=1))


class PoolFirstASPP(ResearchASPP):
    """Same parameters and shapes, concatenated in another order."""

    def forward(self, x: Tensor) -> Tensor:
        *convs, pool = self.convs
        return self.project(torch.cat([pool(x), *(conv(x) for conv in convs)], dim=1))


class DeepLabHeadV3Plus(nn.Module):
    """VainF/DeepLabV3Plus-Pytorch: maps in a dict, the low-level one concatenated first, half-pixel grid."""

    def __init__(self, in_channels: int, low_channels: int, classes: int) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Conv2d(low_channels, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        )
        self.aspp = ReferenceASPP(in_channels, (2, 3), 10, dropout=0.1)
        conv = nn.Conv2d(16, 8, 3, padding=1, bias=False)
        self.classifier = nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, classes, 1))

    def forward(self, feature: dict[str, Tensor]) -> Tensor:
        low, high = self.project(feature["low_level"]), self.aspp(feature["out"])
        high = F.interpolate(high, size=low.shape[2:], mode="bilinear", align_corners=False)
        return self.classifier(torch.cat([low, high], dim=1))


class AsppFirst(DeepLabHeadV3Plus):
    """Same parameters and shapes, concatenated in another order."""

    def forward(self, feature: dict[str, Tensor]) -> Tensor:
        low, high = self.project(feature["low_level"]), self.aspp(feature["out"])
        high = F.interpolate(high, size=low.shape[2:], mode="bilinear", align_corners=False)
        return self.classifier(torch.cat([high, low], dim=1))


class HighResolutionNet(nn.Module):
    """The end of HRNet-Semantic-Segmentation's model with OCR: both convolutions read one concat of all maps.

    ``joined`` False is the edit that docs/fuse.md describes: the list of maps goes on as it is.
    """

    joined = True

    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        total = sum(widths)
        self.stage4 = nn.ModuleList(nn.Conv2d(3, c, 3, stride=2 << i, padding=1) for i, c in enumerate(widths))
        self.conv3x3_ocr = nn.Sequential(nn.Conv2d(total, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.aux_head = nn.Sequential(
            nn.Conv2d(total, total, 1), nn.BatchNorm2d(total), nn.ReLU(inplace=True), nn.Conv2d(total, classes, 1)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        x = [conv(image) for conv in self.stage4]
        feats: Any = x
        if self.joined:
            size = x[0].shape[2:]
            others = [F.interpolate(m, size=size, mode="bilinear", align_corners=True) for m in x[1:]]
            feats = torch.cat([x[0], *others], 1)
        return [self.aux_head(feats), self.conv3x3_ocr(feats)]
