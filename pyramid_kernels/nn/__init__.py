"""Drop-in pyramid modules: the parameters and ``state_dict`` keys of the module each one names."""

from .aspp import ASPP, ReferenceASPP
from .heads import PSPHead, ReferencePSPHead
from .ppm import PPM, ReferencePPM

__all__ = ["ASPP", "PPM", "PSPHead", "ReferenceASPP", "ReferencePPM", "ReferencePSPHead"]
