"""Drop-in pyramid modules: the parameters and ``state_dict`` keys of the module each one names."""

from .aspp import ASPP, ReferenceASPP
from .deeplabv3plus import DeepLabV3PlusDecoder, ReferenceDeepLabV3PlusDecoder
from .heads import PSPHead, ReferencePSPHead
from .hrnetv2 import HRNetV2Head, ReferenceHRNetV2Head
from .losses import UpsampleCrossEntropyLoss
from .ppm import PPM, ReferencePPM
from .segformer import ReferenceSegFormerHead, SegFormerHead
from .spp import SPP, SPPF, ReferenceSPP, ReferenceSPPF
from .upernet import ReferenceUPerHead, UPerHead

__all__ = [
    "ASPP",
    "PPM",
    "SPP",
    "SPPF",
    "DeepLabV3PlusDecoder",
    "HRNetV2Head",
    "PSPHead",
    "ReferenceASPP",
    "ReferenceDeepLabV3PlusDecoder",
    "ReferenceHRNetV2Head",
    "ReferencePPM",
    "ReferencePSPHead",
    "ReferenceSPP",
    "ReferenceSPPF",
    "ReferenceSegFormerHead",
    "ReferenceUPerHead",
    "SegFormerHead",
    "UPerHead",
    "UpsampleCrossEntropyLoss",
]
