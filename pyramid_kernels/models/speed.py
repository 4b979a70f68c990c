"""SPEED, a small network for the depth of an image."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backends import Backend
from ..nn.aspp import separable
from . import keras
from .base import Network

#: The encoder's blocks as the source numbers them: stride, and output channels over ``width``.
BLOCKS = {1: (1, 2), 2: (2, 4), 3: (1, 4), 4: (2, 8), 5: (1, 8), 6: (2, 16), 7: (1, 16), 12: (2, 32), 13: (1, 8)}


class SPEED(Network):
    """Depth from one image: a MobileNet with a separable pyramid, and three upsampling steps with mixed ones.

    x: (N, 3, H, W), sides multiples of 32 -> depth (N, 1, H / 4, W / 4). Layers are those of the Keras source, whose
    padding of strided convolutions is at the bottom and the right; ``load_keras`` reads its files.

    Args:
        width: channels of the first convolution, a power of two; all others are multiples of it.
        bins: of every pyramid; no map may be smaller, so no side of an image under 16 * max(bins).
        fused, backend: as in ``Network``.

    Raises:
        ValueError: naming the argument; an image with a side under 16 * max(bins) (128 px), or no multiple of 32.

    Source: Papa et al., SPEED: Separable Pyramidal Pooling EncodEr-Decoder for Real-Time Monocular Depth Estimation on
    Low-Resource Settings, 2022; lorenzopapa5/SPEED.
    """

    ops = ("separable_pyramid",)
    published_size = (192, 256)
    multiple = 32

    def __init__(
        self, *, width: int = 32, bins: Sequence[int] = (2, 4, 6, 8), fused: bool = True, backend: Backend = "auto"
    ) -> None:
        super().__init__(fused=fused, backend=backend)
        if width < 4 or width & (width - 1):
            raise ValueError(f"width must be a power of two of at least 4, got {width!r}")
        self.stride = max(32, 16 * max(bins))
        self.conv1 = nn.Conv2d(3, width, 3, 2, bias=False)
        self.conv1_bn = _norm(width)
        self.blocks = nn.ModuleDict()
        channels = width
        for block, (stride, multiple) in BLOCKS.items():
            self.blocks[str(block)] = Block(channels, multiple * width, stride)
            channels = multiple * width
            if block == 7:
                self.dspp = self.pyramid("DSPP", channels, 4 * width, bins)
                channels += 4 * width * len(bins)
        self.init_decoder = nn.Conv2d(channels, 8 * width, 1)
        self.up1 = Up(nn.Identity(), 8 * width, 4 * width, 8 * width)
        mixed = self.pyramid("MDSPP", self.up1.channels, 2 * width, bins)
        self.up2 = Up(mixed, self.up1.channels + 2 * width, 2 * width, 4 * width)
        mixed = self.pyramid("MDSPP", self.up2.channels, width, bins)
        self.up3 = Up(mixed, self.up2.channels + width, width, 2 * width)
        self.depth = nn.Conv2d(self.up3.channels, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        self.check_image(x)
        x = F.relu6(self.conv1_bn(self.conv1(_pad(x))))
        skips = {}
        for name, block in self.blocks.items():
            x, skips[name] = block(x)
            if name == "7":
                x = self.dspp(x)
        x = self.up1(self.init_decoder(x), skips["6"])
        x = self.up2(x, skips["4"])
        return self.depth(self.up3(x, skips["2"]))

    def load_keras(self, path: str | PathLike[str]) -> Self:
        """Take the weights of a Keras file, and return this network.

        It is a whole model's (``.h5``, ``.keras``) or holds weights alone (``.weights.h5``, an older ``.h5``).
        Layers are found by the source's names; the pyramid's, which Keras numbers itself, in order. Values come in
        float16, bfloat16, float32 or float64. Nothing is changed unless the whole file fits, and nothing but this file
        is read.

        Raises:
            FileNotFoundError: ``path`` is not a file. ImportError: h5py is not installed.
            ValueError: naming the file: it is damaged or not Keras's; a layer or weight is missing, has another shape
                or dtype, is not finite, or is none of this network's.
        """
        return keras.load_(self, path, self._keras_layers(), {"separable_conv2d": list(self.dspp.levels)})

    def _keras_layers(self) -> dict[str, nn.Module]:
        """Every layer by its name in the source, but for the pyramid's."""
        layers = {"conv1": self.conv1, "conv1_bn": self.conv1_bn, "conv_Init_decoder": self.init_decoder}
        for name, block in self.blocks.items():
            for part, layer in block.named_children():
                layers[f"conv_{part.replace('_bn', '')}_{name}{'_bn' if part.endswith('_bn') else ''}"] = layer
        layers |= {"up1_upconv": self.up1.upsample, "up1_sep_conv": self.up1.mix, "convDepthF": self.depth}
        ups: dict[str, Any] = {"up2": self.up2, "up3": self.up3}
        for name, up in ups.items():
            for (size, _), level in zip(up.pyramid.bins, up.pyramid.levels, strict=True):
                layers[f"{name}_upconv_1_{size}"] = level
            odd, even = up.pyramid.pairs
            layers |= {f"{name}_upconv_2_odd": odd, f"{name}_upconv_2_even": even}
            layers |= {f"{name}_upconv_final": up.upsample, f"{name}_sep_conv": up.mix}
        return layers


class Block(nn.Module):
    """A depthwise 3x3 and a 1x1, a norm and ReLU6 behind each. Gives its result and the bare depthwise one."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        padding = 1 if stride == 1 else 0
        self.dw = nn.Conv2d(channels, channels, 3, stride, padding, groups=channels, bias=False)
        self.dw_bn = _norm(channels)
        self.pw = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.pw_bn = _norm(out_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        filtered = self.dw(_pad(x) if self.dw.stride[0] == 2 else x)
        x = F.relu6(self.dw_bn(filtered))
        return F.relu6(self.pw_bn(self.pw(x))), filtered


class Up(nn.Module):
    """A pyramid, a transposed convolution to twice the size, the encoder's map behind it, a separable convolution."""

    def __init__(self, pyramid: nn.Module, channels: int, filters: int, skip: int) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.upsample = nn.ConvTranspose2d(channels, filters, 3, 2, bias=False)
        self.channels = 1 << (((filters + skip) // 4).bit_length() - 1)  # a power of two
        self.mix = separable(filters + skip, self.channels, bias=False)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        # Keras cuts the last row and column off; padding of PyTorch's own would cut the first.
        up = self.upsample(self.pyramid(x))[..., : 2 * x.shape[2], : 2 * x.shape[3]]
        return torch.relu(self.mix(torch.relu(torch.cat([up, skip], 1))))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _pad(x: Tensor) -> Tensor:
    """What TensorFlow pads an even size by before a 3x3 of stride 2."""
    return F.pad(x, (0, 1, 0, 1))
