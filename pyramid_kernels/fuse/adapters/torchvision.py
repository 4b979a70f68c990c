"""torchvision's DeepLab v3."""

from __future__ import annotations

from torchvision.models.segmentation import deeplabv3

from ...nn.aspp import ASPPForward
from ..registry import adapters


class FusedASPP(ASPPForward, deeplabv3.ASPP):
    """torchvision's ASPP with its forward fused."""

    original = deeplabv3.ASPP
    image_pooling = deeplabv3.ASPPPooling


adapters[deeplabv3.ASPP] = FusedASPP
