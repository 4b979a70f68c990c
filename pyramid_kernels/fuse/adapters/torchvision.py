"""torchvision's DeepLab v3."""

from __future__ import annotations

from torchvision.models.segmentation import deeplabv3

from ...nn.aspp import ASPPForward
from ..registry import adapters, notes


class FusedASPP(ASPPForward, deeplabv3.ASPP):
    """torchvision's ASPP with its forward fused."""

    original = deeplabv3.ASPP
    image_pooling = deeplabv3.ASPPPooling


adapters[deeplabv3.ASPP] = FusedASPP
notes[deeplabv3.DeepLabHead] = "left alone: its 3x3 and classifier are ordinary convolutions; its ASPP has its own line"
