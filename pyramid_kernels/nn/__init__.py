"""Drop-in pyramid modules: the parameters and ``state_dict`` keys of the module each one names."""

from .aspp import ASPP, ReferenceASPP
from .bisenet import (
    AttentionRefinementModule,
    FeatureFusionModule,
    ReferenceAttentionRefinementModule,
    ReferenceFeatureFusionModule,
)
from .deeplabv3plus import DeepLabV3PlusDecoder, ReferenceDeepLabV3PlusDecoder
from .dilated import ASPPv2, LargeFOV, ReferenceASPPv2, ReferenceLargeFOV
from .dspp import DSPP, MDSPP, ReferenceDSPP, ReferenceMDSPP
from .heads import PSPHead, ReferencePSPHead
from .hrnet import HRFuse, ReferenceHRFuse
from .hrnetv2 import HRNetV2Head, ReferenceHRNetV2Head
from .losses import UpsampleCrossEntropyLoss
from .ppm import PPM, ReferencePPM
from .segformer import ReferenceSegFormerHead, SegFormerHead
from .spatial_pyramid_pooling import ReferenceSpatialPyramidPooling, SpatialPyramidPooling
from .spp import SPP, SPPF, ReferenceSPP, ReferenceSPPF
from .upernet import ReferenceUPerHead, UPerHead

__all__ = [
    "ASPP",
    "ASPPv2",
    "AttentionRefinementModule",
    "DSPP",
    "DeepLabV3PlusDecoder",
    "FeatureFusionModule",
    "HRFuse",
    "HRNetV2Head",
    "LargeFOV",
    "MDSPP",
    "PPM",
    "PSPHead",
    "ReferenceASPP",
    "ReferenceASPPv2",
    "ReferenceAttentionRefinementModule",
    "ReferenceDSPP",
    "ReferenceDeepLabV3PlusDecoder",
    "ReferenceFeatureFusionModule",
    "ReferenceHRFuse",
    "ReferenceHRNetV2Head",
    "ReferenceLargeFOV",
    "ReferenceMDSPP",
    "ReferencePPM",
    "ReferencePSPHead",
    "ReferenceSPP",
    "ReferenceSPPF",
    "ReferenceSegFormerHead",
    "ReferenceSpatialPyramidPooling",
    "ReferenceUPerHead",
    "SPP",
    "SPPF",
    "SegFormerHead",
    "SpatialPyramidPooling",
    "UPerHead",
    "UpsampleCrossEntropyLoss",
]
