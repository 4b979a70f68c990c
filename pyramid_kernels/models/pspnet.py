"""PSPNet."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..backends import Backend
from . import base
from .base import Segmenter


class PSPNet(Segmenter):
    """A dilated ResNet at output stride 8 and averages of its last map over several grids.

    x: (N, 3, H, W) -> class scores (N, classes, H, W), upsampled (corners aligned) from those at an eighth: for an
    image of 473 px the pyramid's map has 60, for one of 713 px 90.

    Args:
        classes: channels of the result.
        backbone: a ResNet of torchvision, or a model of timm that takes output stride 8.
        bins: the grids, one int or (rows, cols) each.
        hidden, dropout: of the bottleneck behind the pyramid.
        fused, backend: as in ``Network``.

    Raises:
        ValueError: naming the argument; an image under 8 px; PyTorch's "Expected more than 1 value per channel when
            training" for a batch of one. ImportError: torchvision or timm is not installed.

    Source: Zhao et al., Pyramid Scene Parsing Network, 2017; its head as in hszhao/semseg.
    """

    ops = ("pyramid_conv", "pyramid_pool", "pyramid_project")
    published_size = (713, 713)
    stride = 8
    align_corners = True

    def __init__(
        self, classes: int = 19, backbone: str = "resnet101", *, bins: Sequence[int] = (1, 2, 3, 6),
        hidden: int = 512, dropout: float = 0.1, fused: bool = True, backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(fused=fused, backend=backend)
        self.backbone, (channels,) = base.backbone(backbone, output_stride=8, stages=(4,))
        self.head: nn.Module = self.pyramid("PSPHead", channels, classes, bins, hidden_dim=hidden, dropout=dropout)

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)[-1])
