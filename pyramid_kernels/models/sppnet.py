"""SPP-net's classifier of images of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backends import Backend
from .base import Network


class SPPNet(Network):
    """Four convolutions, a spatial pyramid of maxima, two linear layers: images of any size, vectors of one length.

    x: (N, in_channels, H, W), 8 px or more -> (N, classes), a probability per class (a sigmoid of its own each).

    Args:
        in_channels, classes: channels of the image, and of the result.
        width: channels of the first convolution; the last has 8 times as many, which the pyramid makes 168 times.
        hidden: features between the linear layers.
        windows: of the pyramid: "adaptive", or "ceil" as in the PyTorch source, which some sizes are refused by.
        fused, backend: as in ``Network``.

    Raises:
        ValueError: an image under 8 px; under "ceil" one whose last map has a size of 1, 2, 3, 5 or 9 (images of 16,
            17, 24 or 25 px among others).

    Source: He et al., Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition, 2014; layers and
    keys of its PyTorch port, unused ones (``BN3``, ``conv5``) included.
    """

    ops = ("pyramid_pool",)
    published_size = (224, 224)
    stride = 8

    def __init__(
        self, in_channels: int = 3, classes: int = 1000, *, width: int = 64, hidden: int = 4096,
        windows: str = "adaptive", fused: bool = True, backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(fused=fused, backend=backend)
        self.conv1 = nn.Conv2d(in_channels, width, 4, 2, 1, bias=False)
        self.conv2 = nn.Conv2d(width, 2 * width, 4, 1, 1, bias=False)
        self.BN1 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 4, 1, 1, bias=False)
        self.BN2 = nn.BatchNorm2d(4 * width)
        self.conv4 = nn.Conv2d(4 * width, 8 * width, 4, 1, 1, bias=False)
        self.BN3 = nn.BatchNorm2d(8 * width)
        self.conv5 = nn.Conv2d(8 * width, width, 4, 1, 0, bias=False)
        self.spp = self.pyramid("SpatialPyramidPooling", (4, 2, 1), windows=windows)
        self.fc1 = nn.Linear(8 * width * self.spp.cells, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        self.check_image(x)
        x = F.leaky_relu(self.conv1(x))
        x = F.leaky_relu(self.BN1(self.conv2(x)))
        x = F.leaky_relu(self.BN2(self.conv3(x)))
        return torch.sigmoid(self.fc2(self.fc1(self.spp(self.conv4(x)))))
