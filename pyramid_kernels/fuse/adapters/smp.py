"""segmentation_models_pytorch: DeepLab v3 and v3+ (dense and separable ASPP), PSPNet."""

from __future__ import annotations

from typing import Any

from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.decoders.deeplabv3 import decoder as deeplabv3
from segmentation_models_pytorch.decoders.pspnet import decoder as pspnet
from torch import nn

from ...nn import structure
from ...nn.aspp import ASPPForward
from ...nn.base import Unit
from ...nn.ppm import Level, PPMForward
from ..registry import adapters


class FusedASPP(ASPPForward, deeplabv3.ASPP):
    """ASPP with its forward fused."""

    original = deeplabv3.ASPP
    image_pooling = deeplabv3.ASPPPooling


class FusedPSPModule(PPMForward, pspnet.PSPModule):
    """PSPModule with its forward fused: the levels come first, and the 1x1 level has a bias in place of its norm."""

    original = pspnet.PSPModule
    x_first = False

    @classmethod
    def levels(cls, module: Any) -> list[Level]:
        pools = [block.pool for block in module.blocks]
        return [Level(pool, Unit(conv, norm)) for pool, (conv, norm, _) in pools]

    @classmethod
    def why_not(cls, module: nn.Module) -> str | None:
        blocks: Any = module._modules.get("blocks")
        if not isinstance(blocks, nn.ModuleList) or not len(blocks):
            return "blocks is not a ModuleList of levels"
        block: Any
        for i, block in enumerate(blocks):
            if type(block) is not pspnet.PSPBlock:
                return f"blocks.{i} is a {type(block).__name__}, not PSPBlock"
            path = f"blocks.{i}.pool"
            reason = structure.why_not_sequence(path, block.pool, nn.AdaptiveAvgPool2d, Conv2dReLU)
            reason = reason or structure.why_not_sequence(f"{path}.1", block.pool[1], nn.Conv2d, nn.Module, nn.ReLU)
            if reason:
                return reason
        return cls.why_not_levels(module)


adapters[deeplabv3.ASPP] = FusedASPP
adapters[pspnet.PSPModule] = FusedPSPModule
