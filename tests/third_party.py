"""Classes as users have them: pyramid modules of well-known repositories in our own words, and look-alikes."""

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

    def __init__(self, in_channels: int, rates: tuple[int, ...], out_channels: int, dropout: float = 0.5) -> None:
        super().__init__()
        like = ReferenceASPP(in_channels, rates, out_channels, dropout=dropout)
        self.convs, self.project = like.convs, like.project

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([conv(x) for conv in self.convs], dim=1))


class PoolFirstASPP(ResearchASPP):
    """Same parameters and shapes, concatenated in another order."""

    def forward(self, x: Tensor) -> Tensor:
        *convs, pool = self.convs
        return self.project(torch.cat([pool(x), *(conv(x) for conv in convs)], dim=1))


class LeakyASPP(ResearchASPP):
    """A function behind the concat, where no layer would show it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.leaky_relu(torch.cat([conv(x) for conv in self.convs], dim=1) - 1))


class DroppingASPP(ResearchASPP):
    """A function for the dropout, beside the one among its layers."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.1, self.training)


class DeepLabHeadV3Plus(nn.Module):
    """VainF/DeepLabV3Plus-Pytorch: maps in a dict, the low-level one concatenated first, half-pixel grid."""

    def __init__(self, in_channels: int, low_channels: int, classes: int) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Conv2d(low_channels, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        )
        self.aspp = ResearchASPP(in_channels, (2, 3), 10, dropout=0.0)
        conv = nn.Conv2d(16, 8, 3, padding=1, bias=False)
        self.classifier = nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, classes, 1))

    def forward(self, feature: dict[str, Tensor]) -> Tensor:
        low, high = self.project(feature["low_level"]), self.aspp(feature["out"])
        high = F.interpolate(high, size=low.shape[2:], mode="bilinear", align_corners=False)
        return self.classifier(torch.cat([low, high], dim=1))


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


class ClassifierModule(nn.Module):
    """DeepLab v2's sum as in very many repositories."""

    def __init__(self, inplanes: int, dilations: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(inplanes, classes, kernel_size=3, stride=1, padding=d, dilation=d, bias=True) for d in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2d_list[0](x)
        for conv in self.conv2d_list[1:]:
            out = out + conv(x)
        return out


class EarlyClassifierModule(ClassifierModule):
    """Same parameters and shapes; AdaptSegNet's copy returns within the loop, after two branches."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2d_list[0](x) + self.conv2d_list[1](x)


class KazutoASPP(nn.Module):
    """kazuto1011/deeplab-pytorch's sum: the branches are its children."""

    def __init__(self, in_ch: int, out_ch: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        for i, rate in enumerate(rates):
            self.add_module(f"c{i}", nn.Conv2d(in_ch, out_ch, 3, 1, padding=rate, dilation=rate, bias=True))

    def forward(self, x: Tensor) -> Tensor:
        return sum(stage(x) for stage in self.children())


class EarlyASPP(KazutoASPP):
    """Same parameters and shapes; its sum ends after two branches."""

    def forward(self, x: Tensor) -> Tensor:
        return self.c0(x) + self.c1(x)


class PoseModule(nn.Module):
    """HighResolutionModule of the official pose network: a map on its own way is None among the layers."""

    #: What ends the way of a coarser map to the output that is ``steps`` halvings finer.
    upsampled: Any = staticmethod(lambda steps: [nn.Upsample(scale_factor=2**steps, mode="nearest")])

    def __init__(self, channels: tuple[int, ...], multi_scale_output: bool = True) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.ReLU()) for c in channels)
        outputs = channels if multi_scale_output else channels[:1]
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._path(channels, j, i) for j in range(len(channels))) for i in range(len(outputs))
        )
        self.relu = nn.ReLU(True)

    def _path(self, channels: tuple[int, ...], j: int, i: int) -> nn.Module | None:
        if j == i:
            return None
        if j > i:
            conv = nn.Conv2d(channels[j], channels[i], 1, 1, 0, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(channels[i]), *self.upsampled(j - i))
        steps = []
        for k in range(i - j):
            out = channels[i] if k == i - j - 1 else channels[j]
            act = [] if k == i - j - 1 else [nn.ReLU(True)]
            steps.append(nn.Sequential(nn.Conv2d(channels[j], out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), *act))
        return nn.Sequential(*steps)

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        for i, branch in enumerate(self.branches):
            x[i] = branch(x[i])
        x_fuse = []
        for i in range(len(self.fuse_layers)):
            y = x[0] if i == 0 else self.fuse_layers[i][0](x[0])
            for j in range(1, len(self.branches)):
                y = y + (x[j] if i == j else self.resized(self.fuse_layers[i][j](x[j]), x[i]))
            x_fuse.append(self.relu(y))
        return x_fuse

    def resized(self, z: Tensor, like: Tensor) -> Tensor:
        return z


class SegmentationModule(PoseModule):
    """The same module of the segmentation network: same keys and shapes, the forward upsamples bilinearly."""

    upsampled: Any = staticmethod(lambda steps: [])

    def resized(self, z: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(z, size=like.shape[-2:], mode="bilinear", align_corners=True)


class BilinearPoseModule(PoseModule):
    """Same parameters; another upsampling among its layers."""

    upsampled: Any = staticmethod(lambda steps: [nn.Upsample(scale_factor=2**steps, mode="bilinear")])
