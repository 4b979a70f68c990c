"""BiSeNet's gates of several repositories in our own words: attributes, keys and order of calls of their classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.third_party_mmseg import ConvModule


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


class NormedARM(OooARM):
    """The same keys; its norm is called."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.mul(x, self.sigmoid(self.bn(self.conv(self.avgpool(x)))))


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


def conv_module(*args: Any, act: bool = True, **kwargs: Any) -> ConvModule:
    """mmcv's; with ``act_cfg=None`` it has no activation, whatever its order says."""
    module = ConvModule(*args, **kwargs)
    if not act:
        del module.activate
        module.with_activation = False
    return module


class MMSegARM(nn.Module):
    def __init__(self, in_channels: int, out_channel: int) -> None:
        super().__init__()
        self.conv_layer = conv_module(in_channels, out_channel, 3, 1)
        self.atten_conv_layer = nn.Sequential(
            nn.AdaptiveAvgPool2d((1, 1)), conv_module(out_channel, out_channel, 1, act=False), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_layer(x)
        return x * self.atten_conv_layer(x)


class MMSegSTDCFFM(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        channels = out_channels // 4
        self.conv0 = conv_module(in_channels, out_channels, 1)
        squeeze, expand = (out_channels, channels, 1), (channels, out_channels, 1)
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d((1, 1)), _bare(*squeeze), _bare(*expand, act=False), nn.Sigmoid()
        )

    def forward(self, spatial_inputs: Tensor, context_inputs: Tensor) -> Tensor:
        x = self.conv0(torch.cat([spatial_inputs, context_inputs], dim=1))
        return x * self.attention(x) + x


def _bare(*args: Any, act: bool = True) -> ConvModule:
    module = conv_module(*args, norm=None, act=act)
    module.conv.register_parameter("bias", None)
    return module


class ReluGateFFM(nn.Module):
    """mmsegmentation's of BiSeNetV1: a ReLU before the sigmoid."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = conv_module(in_channels, out_channels, 1)
        self.gap = nn.AdaptiveAvgPool2d((1, 1))
        self.conv_atten = nn.Sequential(conv_module(out_channels, out_channels, 1), nn.Sigmoid())

    def forward(self, x_sp: Tensor, x_cp: Tensor) -> Tensor:
        x = self.conv1(torch.cat([x_sp, x_cp], dim=1))
        return x * self.conv_atten(self.gap(x)) + x
