"""Classes as users have them: pyramid modules of well-known repositories in our own words, and look-alikes."""

from __future__ import annotations

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
