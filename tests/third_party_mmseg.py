"""mmsegmentation's heads in our own words: attributes, keys and order of calls of its classes of the same names."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvModule(nn.Module):
    """mmcv: convolution, norm and activation under ``conv``, the norm's own name and ``activate``, in any order."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, padding: int = 0, dilation: int = 1,
        groups: int = 1, norm: type[nn.Module] | None = nn.BatchNorm2d, act: nn.Module | None = None,
        order: tuple[str, ...] = ("conv", "norm", "act"), spectral: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.order, self.with_norm, self.with_activation = order, norm is not None, True
        conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, groups=groups, bias=norm is None
        )
        self.conv = nn.utils.spectral_norm(conv) if spectral else conv
        self.norm_name = None if norm is None else "bn"
        if norm is not None:
            self.add_module("bn", norm(out_channels if order.index("norm") > order.index("conv") else in_channels))
        self.activate = act or nn.ReLU(inplace=True)

    @property
    def norm(self) -> nn.Module | None:
        return getattr(self, self.norm_name) if self.norm_name else None

    def forward(self, x: Tensor) -> Tensor:
        steps = {
            "conv": self.conv,
            "norm": self.norm or nn.Identity(),
            "act": self._modules.get("activate") or nn.Identity(),
        }
        for name in self.order:
            x = steps[name](x)
        return x


class BaseDecodeHead(nn.Module, metaclass=ABCMeta):
    """Which maps a head reads, and the dropout and classifier behind it."""

    def __init__(
        self, in_channels: Any, channels: int, *, num_classes: int = 3, dropout_ratio: float = 0.1, in_index: Any = -1,
        input_transform: str | None = None, align_corners: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_channels = sum(in_channels) if input_transform == "resize_concat" else in_channels
        self.in_index, self.input_transform = in_index, input_transform
        self.channels, self.align_corners = channels, align_corners
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        self.dropout = nn.Dropout2d(dropout_ratio) if dropout_ratio > 0 else None

    def resize(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=self.align_corners)

    def _transform_inputs(self, inputs: Sequence[Tensor]) -> Any:
        if self.input_transform is None:
            return inputs[self.in_index]
        chosen = [inputs[i] for i in self.in_index]
        if self.input_transform == "multiple_select":
            return chosen
        return torch.cat([self.resize(x, chosen[0]) for x in chosen], dim=1)

    @abstractmethod
    def _forward_feature(self, inputs: Any) -> Tensor: ...

    def forward(self, inputs: Any) -> Tensor:
        return self.cls_seg(self._forward_feature(inputs))

    def cls_seg(self, feat: Tensor) -> Tensor:
        return self.conv_seg(feat if self.dropout is None else self.dropout(feat))


class PPM(nn.ModuleList):
    """The levels of a pyramid, upsampled: a list, which the head concatenates."""

    def __init__(self, pool_scales: Sequence[int], in_channels: int, channels: int, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        for scale in pool_scales:
            self.append(nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvModule(in_channels, channels, 1)))

    def forward(self, x: Tensor) -> list[Tensor]:
        size, corners = x.shape[2:], self.align_corners
        return [F.interpolate(level(x), size=size, mode="bilinear", align_corners=corners) for level in self]


class PSPHead(BaseDecodeHead):
    def __init__(self, pool_scales: Sequence[int] = (1, 2, 3, 6), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = self.channels
        self.psp_modules = PPM(pool_scales, self.in_channels, width, self.align_corners)
        self.bottleneck = ConvModule(self.in_channels + len(pool_scales) * width, width, 3, padding=1)

    def _forward_feature(self, inputs: Any) -> Tensor:
        x = self._transform_inputs(inputs)
        return self.bottleneck(torch.cat([x, *self.psp_modules(x)], dim=1))


class UPerHead(BaseDecodeHead):
    def __init__(self, pool_scales: Sequence[int] = (1, 2, 3, 6), **kwargs: Any) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        *finer, last = self.in_channels
        width = self.channels
        self.psp_modules = PPM(pool_scales, last, width, self.align_corners)
        self.bottleneck = ConvModule(last + len(pool_scales) * width, width, 3, padding=1)
        self.lateral_convs = nn.ModuleList(ConvModule(c, width, 1, act=nn.ReLU()) for c in finer)
        self.fpn_convs = nn.ModuleList(ConvModule(width, width, 3, padding=1, act=nn.ReLU()) for _ in finer)
        self.fpn_bottleneck = ConvModule(len(self.in_channels) * width, width, 3, padding=1)

    def psp_forward(self, inputs: Any) -> Tensor:
        return self.bottleneck(torch.cat([inputs[-1], *self.psp_modules(inputs[-1])], dim=1))

    def _forward_feature(self, inputs: Any) -> Tensor:
        inputs = self._transform_inputs(inputs)
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, inputs[:-1], strict=True)]
        laterals.append(self.psp_forward(inputs))
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + self.resize(laterals[i], laterals[i - 1])
        outs = [conv(x) for conv, x in zip(self.fpn_convs, laterals[:-1], strict=True)] + laterals[-1:]
        return self.fpn_bottleneck(self.joined([self.resize(x, outs[0]) for x in outs]))

    def joined(self, outs: list[Tensor]) -> Tensor:
        return torch.cat(outs, dim=1)


class FCNHead(BaseDecodeHead):
    def __init__(
        self, num_convs: int = 2, kernel_size: int = 3, concat_input: bool = True, dilation: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.concat_input = concat_input
        widths = [self.in_channels, *[self.channels] * num_convs]
        padding = kernel_size // 2 * dilation
        convs = [ConvModule(c, self.channels, kernel_size, padding, dilation) for c in widths[:-1]]
        self.convs = nn.Sequential(*convs) if convs else nn.Identity()
        if concat_input:
            joined = self.in_channels + self.channels
            self.conv_cat = ConvModule(joined, self.channels, kernel_size, kernel_size // 2)

    def _forward_feature(self, inputs: Any) -> Tensor:
        x = self._transform_inputs(inputs)
        feats = self.convs(x)
        return self.conv_cat(torch.cat([x, feats], dim=1)) if self.concat_input else feats


class SegformerHead(BaseDecodeHead):
    def __init__(self, interpolate_mode: str = "bilinear", **kwargs: Any) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        self.interpolate_mode = interpolate_mode
        self.convs = nn.ModuleList(ConvModule(c, self.channels, 1) for c in self.in_channels)
        self.fusion_conv = ConvModule(len(self.in_channels) * self.channels, self.channels, 1)

    def _forward_feature(self, inputs: Any) -> Tensor:
        inputs = self._transform_inputs(inputs)
        corners = self.align_corners if self.interpolate_mode == "bilinear" else None
        outs = [
            F.interpolate(conv(x), size=inputs[0].shape[2:], mode=self.interpolate_mode, align_corners=corners)
            for conv, x in zip(self.convs, inputs, strict=True)
        ]
        return self.fusion_conv(torch.cat(outs, dim=1))


#: The module each class has in the library.
MODULES: dict[str, type[BaseDecodeHead]] = {
    "psp_head": PSPHead,
    "uper_head": UPerHead,
    "fcn_head": FCNHead,
    "segformer_head": SegformerHead,
}
