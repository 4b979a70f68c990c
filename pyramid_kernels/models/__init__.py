"""Whole networks made of pyramid modules, each fused or in plain PyTorch, with one ``state_dict``."""

from .base import Network, Segmenter, backbone
from .bisenet import BiSeNet
from .deeplab import DeepLabV1, DeepLabV2, DeepLabV3, DeepLabV3Plus
from .hrnet import HRNet, HRNetPose
from .pspnet import PSPNet
from .speed import SPEED
from .sppnet import SPPNet

__all__ = [
    "SPEED",
    "BiSeNet",
    "DeepLabV1",
    "DeepLabV2",
    "DeepLabV3",
    "DeepLabV3Plus",
    "HRNetPose",
    "HRNet",
    "Network",
    "PSPNet",
    "SPPNet",
    "Segmenter",
    "backbone",
    "networks",
]


def networks() -> dict[str, type[Network]]:
    """Every network by its name."""
    found = {name: value for name, value in globals().items() if isinstance(value, type) and issubclass(value, Network)}
    return {name: cls for name, cls in sorted(found.items()) if cls not in (Network, Segmenter)}
