"""YOLO's pooling modules in our own words, as YOLOv5, YOLOX and mmdetection have them, and look-alikes."""

import torch
from torch import Tensor, nn


class Conv(nn.Module):
    """ultralytics: a convolution, its norm and an activation; ``fold_`` is what ``model.fuse()`` does to it."""

    def __init__(self, c1: int, c2: int, act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, 1, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))

    def fold_(self) -> None:
        self.conv = nn.utils.fuse_conv_bn_eval(self.conv, self.bn)
        del self.bn
        self.forward = self.forward_fuse  # type: ignore[method-assign]


class SPP(nn.Module):
    """YOLOv5: parallel pools."""

    def __init__(self, c1: int, c2: int, k: tuple[int, ...] = (5, 9, 13)) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c1 // 2), Conv(c1 // 2 * (len(k) + 1), c2)
        self.m = nn.ModuleList([nn.MaxPool2d(kernel_size=x, stride=1, padding=x // 2) for x in k])

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.cv2(torch.cat([x] + [m(x) for m in self.m], 1))


class SPPF(nn.Module):
    """YOLOv5, and what old pickles of ultralytics hold: an activation behind cv1, three pools and no count of them."""

    def __init__(self, c1: int, c2: int, k: int = 5) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c1 // 2), Conv(c1 * 2, c2)
        self.m = nn.MaxPool2d(kernel_size=k, stride=1, padding=k // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        y1 = self.m(x)
        y2 = self.m(y1)
        return self.cv2(torch.cat((x, y1, y2, self.m(y2)), 1))


class LargestFirstSPP(SPP):
    """Same parameters and shapes, concatenated as in YOLOv4: 13, 9, 5, x."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.cv2(torch.cat([m(x) for m in self.m][::-1] + [x], 1))


class SPPBottleneck(nn.Module):
    """YOLOX."""

    def __init__(self, c1: int, c2: int, k: tuple[int, ...] = (5, 9, 13)) -> None:
        super().__init__()
        self.conv1, self.m = Conv(c1, c1 // 2), nn.ModuleList([nn.MaxPool2d(x, 1, x // 2) for x in k])
        self.conv2 = Conv(c1 // 2 * (len(k) + 1), c2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv2(torch.cat([x] + [m(x) for m in self.m], dim=1))


class PoolingsBottleneck(nn.Module):
    """mmdetection's SPPBottleneck."""

    def __init__(self, c1: int, c2: int, k: tuple[int, ...] = (5, 9, 13)) -> None:
        super().__init__()
        self.conv1 = Conv(c1, c1 // 2)
        self.poolings = nn.ModuleList([nn.MaxPool2d(kernel_size=x, stride=1, padding=x // 2) for x in k])
        self.conv2 = Conv(c1 // 2 * (len(k) + 1), c2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        with torch.autocast(x.device.type, enabled=False):
            x = torch.cat([x] + [pooling(x) for pooling in self.poolings], dim=1)
        return self.conv2(x)
