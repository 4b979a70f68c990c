"""transformers: UPerNet."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.models.upernet import modeling_upernet as upernet

from ...nn.heads import Bottleneck
from ...nn.kinds import why_not_kind
from ...nn.ppm import Level, why_not_grids
from ...nn.upernet import UPerForward
from ..registry import adapters


class FusedUperNetHead(UPerForward, upernet.UperNetHead):
    """UperNetHead with its forward fused."""

    original = upernet.UperNetHead

    @classmethod
    def levels(cls, module: Any) -> list[Level]:
        pairs = [block.layers for block in module.psp_modules.blocks]
        return [Level(pool, cls.unit(block)) for pool, block in pairs]

    @classmethod
    def top(cls, module: Any) -> Bottleneck:
        return super().top(module)._replace(align_corners=module.psp_modules.align_corners)

    @classmethod
    def why_not_levels(cls, module: Any) -> str | None:
        pyramid = module._modules.get("psp_modules")
        if type(pyramid) is not upernet.UperNetPyramidPoolingModule:
            return f"psp_modules is a {type(pyramid).__name__}, not UperNetPyramidPoolingModule"
        # The original forward walks plain lists, whatever has been put in the place of the registered children.
        if pyramid.blocks != list(pyramid._modules.values()) or not pyramid.blocks:
            return "the blocks of psp_modules are not its children"
        for i, block in enumerate(pyramid.blocks):
            path = f"psp_modules.{i}"
            layers = getattr(block, "layers", [])
            if len(layers) != 2 or layers != list(block._modules.values()):
                return f"the layers of {path} are not its two children"
            reason = why_not_kind(layers[0], nn.AdaptiveAvgPool2d)
            reason = f"{path}.0 {reason}" if reason else cls.why_not_block(f"{path}.1", layers[1])
            if reason:
                return reason
        return why_not_grids(cls.levels(module))


adapters[upernet.UperNetHead] = FusedUperNetHead
