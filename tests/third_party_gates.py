"""BiSeNet's gates of several repositories in our own words: attributes, keys and order of calls of their classes."""

import torch
from torch import Tensor, nn


class ConvBNReLU(nn.Module):
    """CoinCheung and STDC-Seg."""

    def __init__(self, in_chan: int, out_chan: int, ks: int = 3, padding: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chan, out_chan, ks, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out_chan)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class CoinCheungARM(nn.Module):
    def __init__(self, in_chan: int, out_chan: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(in_chan, out_chan)
        self.conv_atten = nn.Conv2d(out_chan, out_chan, kernel_size=1, bias=False)
        self.bn_atten = nn.BatchNorm2d(out_chan)

    def forward(self, x: Tensor) -> Tensor:
        feat = self.conv(x)
        atten = torch.mean(feat, dim=(2, 3), keepdim=True)
        return torch.mul(feat, self.bn_atten(self.conv_atten(atten)).sigmoid())


class ReluARM(CoinCheungARM):
    """Same keys and shapes, a ReLU before the sigmoid."""

    def forward(self, x: Tensor) -> Tensor:
        feat = self.conv(x)
        atten = torch.mean(feat, dim=(2, 3), keepdim=True)
        return torch.mul(feat, self.bn_atten(self.conv_atten(atten)).relu().sigmoid())


class WindowARM(CoinCheungARM):
    """Same keys and shapes; its gate is made of the first windows of a fixed size."""

    def forward(self, x: Tensor) -> Tensor:
        feat = self.conv(x)
        atten = nn.functional.avg_pool2d(feat, 3)[:, :, :1, :1]
        return torch.mul(feat, self.bn_atten(self.conv_atten(atten)).sigmoid())


class CoinCheungFFM(nn.Module):
    """Since 2021: one 1x1 and a norm."""

    def __init__(self, in_chan: int, out_chan: int) -> None:
        super().__init__()
        self.convblk = ConvBNReLU(in_chan, out_chan, 1, 0)
        self.conv = nn.Conv2d(out_chan, out_chan, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_chan)

    def forward(self, fsp: Tensor, fcp: Tensor) -> Tensor:
        feat = self.convblk(torch.cat([fsp, fcp], dim=1))
        atten = self.bn(self.conv(torch.mean(feat, dim=(2, 3), keepdim=True))).sigmoid()
        return torch.mul(feat, atten) + feat


class ContextFirstFFM(CoinCheungFFM):
    """Same keys and shapes, the maps concatenated in the other order."""

    def forward(self, fsp: Tensor, fcp: Tensor) -> Tensor:
        return super().forward(fcp, fsp)


class STDCSegFFM(nn.Module):
    """STDC-Seg, and CoinCheung before 2021: two 1x1 without norm or bias."""

    def __init__(self, in_chan: int, out_chan: int) -> None:
        super().__init__()
        self.convblk = ConvBNReLU(in_chan, out_chan, 1, 0)
        self.conv1 = nn.Conv2d(out_chan, out_chan // 4, kernel_size=1, bias=False)
        self.conv2 = nn.Conv2d(out_chan // 4, out_chan, kernel_size=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.sigmoid = nn.Sigmoid()

    def forward(self, fsp: Tensor, fcp: Tensor) -> Tensor:
        feat = self.convblk(torch.cat([fsp, fcp], dim=1))
        atten = nn.functional.avg_pool2d(feat, feat.size()[2:])
        atten = self.sigmoid(self.conv2(self.relu(self.conv1(atten))))
        return torch.mul(feat, atten) + feat


class OooARM(nn.Module):
    """ooooverflow: no 3x3, a norm that is never called."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1)
        self.bn = nn.BatchNorm2d(out_channels)
        self.sigmoid = nn.Sigmoid()
        self.in_channels = in_channels
        self.avgpool = nn.AdaptiveAvgPool2d(output_size=(1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.mul(x, self.sigmoid(self.conv(self.avgpool(x))))


class OooConvBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv1(x)))


class OooFFM(nn.Module):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.convblock = OooConvBlock(in_channels, num_classes)
        self.conv1 = nn.Conv2d(num_classes, num_classes, kernel_size=1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(num_classes, num_classes, kernel_size=1)
        self.sigmoid = nn.Sigmoid()
        self.avgpool = nn.AdaptiveAvgPool2d(output_size=(1, 1))

    def forward(self, input_1: Tensor, input_2: Tensor) -> Tensor:
        feature = self.convblock(torch.cat((input_1, input_2), dim=1))
        x = self.sigmoid(self.conv2(self.relu(self.conv1(self.avgpool(feature)))))
        return torch.add(torch.mul(feature, x), feature)
