"""Fusing the pyramid modules of a model in place, and exactly undoing it."""

from ..nn.aspp import ASPPForward
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
from . import mmseg, repositories
from .hrnet import HighResolutionModuleForward
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
    "SPPFForward",
    "SPPForward",
    "SegFormerForward",
    "UPerForward",
    "fuse_",
    "fused",
    "mmseg",
    "register_adapter",
    "repositories",
    "unfuse_",
]
