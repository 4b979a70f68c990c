"""Fusing the pyramid modules of a model in place, and exactly undoing it."""

import sys
from types import ModuleType
from typing import Any

from ..nn.aspp import ASPPForward, Parts
from ..nn.base import Unit
from ..nn.bisenet import ARMForward, FFMForward
from ..nn.deeplabv3plus import DeepLabV3PlusForward
from ..nn.dilated import ASPPv2Forward
from ..nn.heads import PSPForward
from ..nn.hrnet import HRFuseForward
from ..nn.hrnetv2 import HRNetV2Forward
from ..nn.ppm import PPMForward
from ..nn.segformer import SegFormerForward
from ..nn.spp import SPPFForward, SPPForward
from ..nn.upernet import UPerForward
from .adapters import mmseg
from .adapters.hrnet import HighResolutionModuleForward
from .freeze import freeze_, unfreeze_
from .registry import register_adapter
from .report import Entry, FuseError, FuseReport
from .swap import fuse_, fused, unfuse_

__all__ = [
    "ARMForward",
    "ASPPForward",
    "ASPPv2Forward",
    "DeepLabV3PlusForward",
    "Entry",
    "FFMForward",
    "FuseError",
    "FuseReport",
    "HRFuseForward",
    "HRNetV2Forward",
    "HighResolutionModuleForward",
    "PPMForward",
    "PSPForward",
    "Parts",
    "SPPFForward",
    "SPPForward",
    "SegFormerForward",
    "UPerForward",
    "Unit",
    "freeze_",
    "fuse_",
    "fused",
    "mmseg",
    "register_adapter",
    "unfreeze_",
    "unfuse_",
]


class _Package(ModuleType):
    """So that the likeliest slip is answered in one line."""

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("pk.fuse is a package; call pk.fuse_(model), which fuses in place")


sys.modules[__name__].__class__ = _Package
