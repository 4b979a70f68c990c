"""Drop-in pyramid modules: the parameters and ``state_dict`` keys of the module each one names."""

from .aspp import ASPP, ReferenceASPP
from .deeplabv3plus import DeepLabV3PlusDecoder, ReferenceDeepLabV3PlusDecoder
from .heads import PSPHead, ReferencePSPHead
from .ppm import PPM, ReferencePPM
from .segformer import ReferenceSegFormerHead, SegFormerHead
from .upernet import ReferenceUPerHead, UPerHead

__all__ = [
    "ASPP",
    "PPM",
    "DeepLabV3PlusDecoder",
    "PSPHead",
    "ReferenceASPP",
    "ReferenceDeepLabV3PlusDecoder",
    "ReferencePPM",
    "ReferencePSPHead",
    "ReferenceSegFormerHead",
    "ReferenceUPerHead",
    "SegFormerHead",
    "UPerHead",
]
