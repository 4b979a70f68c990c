"""segmentation_models_pytorch: the decoders of PSPNet, DeepLab v3+, SegFormer and UPerNet, as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from segmentation_models_pytorch.decoders.deeplabv3 import decoder as deeplabv3
from segmentation_models_pytorch.decoders.pspnet import decoder as pspnet
from segmentation_models_pytorch.decoders.segformer import decoder as segformer
from segmentation_models_pytorch.decoders.upernet import decoder as upernet
from torch import Tensor, nn

from ...backends import Op, Problem
from ...nn import deeplabv3plus, structure
from ...nn import segformer as segformer_head
from ...nn import upernet as upernet_head
from ...nn.aspp import unit_of
from ...nn.base import Fused, Unit
from ...nn.deeplabv3plus import DeepLabV3PlusForward
from ...nn.heads import Bottleneck, PSPForward
from ...nn.mixing import Layers, Size, first_conv
from ...nn.ppm import Level, why_not_grids, why_not_levels
from ...nn.segformer import SegFormerForward
from ...nn.upernet import UPerForward
from ..registry import adapters
from .smp import FusedPSPModule


def why_not_conv_relu(path: str, module: Any) -> str | None:
    """Why ``module`` is not a Conv2dReLU of a convolution, a norm and a ReLU."""
    return structure.why_not_sequence(path, module, nn.Conv2d, nn.Module, nn.ReLU)


class FusedPSPDecoder(PSPForward, pspnet.PSPDecoder):
    """PSPDecoder with its forward fused: the levels of its pyramid come first, and its bottleneck is a 1x1."""

    original = pspnet.PSPDecoder

    @classmethod
    def pyramid(cls, module: Any) -> Bottleneck:
        conv, norm, _ = module.conv
        return Bottleneck(FusedPSPModule.levels(module.psp), Unit(conv, norm), x_first=False, align_corners=True)

    @classmethod
    def tail(cls, module: Any) -> Layers:
        return [module.dropout]

    @classmethod
    def example(cls, module: nn.Module, new: Callable[[int, int], Tensor]) -> Any:
        return [new(cls.pyramid(module).width, 4)]

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        if not isinstance(module.psp, pspnet.PSPModule):
            return f"psp is a {type(module.psp).__name__}, not PSPModule"
        reason = FusedPSPModule.why_not(module.psp) or why_not_conv_relu("conv", module.conv)
        return reason or cls.pyramid(module).why_not("conv.0")

    def maps(self, x: Any) -> Sequence[Tensor]:
        return x[-1:] if isinstance(x, list | tuple) else ()


class FusedUPerPSPModule(PSPForward, upernet.PSPModule):
    """UPerNet's PSPModule with its forward fused: a pyramid and its 3x3."""

    original = upernet.PSPModule

    @classmethod
    def pyramid(cls, module: Any) -> Bottleneck:
        levels = [Level(pool, Unit(block[0], block[1])) for pool, block in module.blocks]
        return Bottleneck(levels, Unit(module.out_conv[0], module.out_conv[1]), x_first=True, align_corners=False)

    @classmethod
    def tail(cls, module: Any) -> Layers:
        return []

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        reason = why_not_levels("blocks", module._modules.get("blocks"), why_not_conv_relu)
        reason = reason or why_not_conv_relu("out_conv", module.out_conv)
        reason = reason or why_not_grids(cls.pyramid(module).levels)
        return reason or cls.pyramid(module).why_not("out_conv.0")


class FusedUPerNetDecoder(UPerForward, upernet.UPerNetDecoder):
    """UPerNetDecoder with its forward fused; its PSPModule has a forward of its own."""

    original = upernet.UPerNetDecoder

    @classmethod
    def parts(cls, module: Any) -> upernet_head.Parts:
        laterals = [block.conv_norm_relu for block in module.fpn_lateral_blocks]
        fuse = Unit(module.fusion_block[0], module.fusion_block[1])
        return upernet_head.Parts(laterals[::-1], list(module.fpn_conv_blocks)[::-1], fuse, [], False)

    @classmethod
    def units(cls, module: nn.Module) -> list[Unit]:
        return [cls.parts(module).fuse]

    @classmethod
    def widths(cls, module: Any) -> list[int]:
        return [first_conv(part).in_channels for part in (*cls.parts(module).laterals, module.psp)]

    @classmethod
    def example(cls, module: nn.Module, new: Callable[[int, int], Tensor]) -> Any:
        return [new(1, 1), new(1, 2), *super().example(module, new)]

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        if not isinstance(module.psp, upernet.PSPModule):
            return f"psp is a {type(module.psp).__name__}, not PSPModule"
        for i, block in enumerate(module.fpn_lateral_blocks):
            if type(block) is not upernet.FPNLateralBlock:
                return f"fpn_lateral_blocks.{i} is a {type(block).__name__}, not FPNLateralBlock"
        reason = why_not_conv_relu("fusion_block", module.fusion_block)
        return reason or cls.why_not_parts("fusion_block.0", cls.parts(module), module.psp)

    def maps(self, x: Any) -> Sequence[Tensor]:
        return x[2:] if isinstance(x, list | tuple) else ()

    def fused_forward(self, x: Any) -> Tensor:
        norms: Any = self.feature_norms
        normalised = [norm(m) for norm, m in zip(norms, x[2:], strict=True)]
        return super().fused_forward([*x[:2], *normalised])

    def top_map(self, x: Tensor) -> Tensor:
        psp: Any = self.psp
        return psp(x)

    def top_problems(self, x: Tensor) -> list[tuple[Op, Problem, tuple[int, ...]]]:
        return self.psp.problems(x) if isinstance(self.psp, Fused) else []


class FusedSegformerDecoder(SegFormerForward, segformer.SegformerDecoder):
    """SegformerDecoder with its forward fused: its levels meet at a quarter of the image."""

    original = segformer.SegformerDecoder

    @classmethod
    def parts(cls, module: Any) -> segformer_head.Parts:
        fuse = Unit(module.fuse_stage[0], module.fuse_stage[1])
        return segformer_head.Parts([stage.linear for stage in module.mlp_stage], fuse, [])

    @classmethod
    def example(cls, module: nn.Module, new: Callable[[int, int], Tensor]) -> Any:
        return [new(1, 1), *(new(width, 2 << i) for i, width in enumerate(cls.widths(module)))]

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        for i, stage in enumerate(module.mlp_stage):
            if type(stage) is not segformer.MLP:
                return f"mlp_stage.{i} is a {type(stage).__name__}, not MLP"
        return why_not_conv_relu("fuse_stage", module.fuse_stage) or cls.why_not_parts(cls.parts(module))

    def maps(self, x: Any) -> Sequence[Tensor]:
        if not isinstance(x, list | tuple) or len(x) < 2:
            return ()
        # Transformer encoders have nothing at half the image's size: a map without channels stands there.
        return x[1:] if x[1].shape[1] else x[2:]

    def size(self, x: Any) -> Size:
        return x[0].shape[2] // 4, x[0].shape[3] // 4


class FusedDeepLabV3PlusDecoder(DeepLabV3PlusForward, deeplabv3.DeepLabV3PlusDecoder):
    """DeepLabV3PlusDecoder with its forward fused; its ASPP has a forward of its own."""

    original = deeplabv3.DeepLabV3PlusDecoder

    @classmethod
    def parts(cls, module: Any) -> deeplabv3plus.Parts:
        order = False, module.up.align_corners, 2
        return deeplabv3plus.Parts(module.aspp, module.block1, unit_of(*module.block2), *order)

    @classmethod
    def example(cls, module: Any, new: Callable[[int, int], Tensor]) -> Any:
        low, high = cls.widths(module)
        return [new(1, 1), new(1, 2), new(low, 4), new(high, 4 * int(module.up.scale_factor))]

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        up = module._modules.get("up")
        if not structure.is_kind(up, nn.Upsample) or up.mode != "bilinear" or up.scale_factor not in (2, 4):
            return f"up is {up}, not a bilinear Upsample by 2 or 4"
        return super().why_not(module)

    def why_not_input(self, x: Any) -> str | None:
        reason = super().why_not_input(x)
        if reason is None:
            low, high = self.maps(x)
            up: Any = self.up
            scale = int(up.scale_factor)
            if (low.shape[2], low.shape[3]) != (scale * high.shape[2], scale * high.shape[3]):
                return f"the low-level map is not {scale} times as large as the last one"
        return reason


adapters[pspnet.PSPDecoder] = FusedPSPDecoder
adapters[upernet.PSPModule] = FusedUPerPSPModule
adapters[upernet.UPerNetDecoder] = FusedUPerNetDecoder
adapters[segformer.SegformerDecoder] = FusedSegformerDecoder
adapters[deeplabv3.DeepLabV3PlusDecoder] = FusedDeepLabV3PlusDecoder
