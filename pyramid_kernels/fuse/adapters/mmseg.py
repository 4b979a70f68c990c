"""mmsegmentation: PSPNet, DeepLab, UPerNet, SegFormer and HRNetV2 heads. Not imported: its classes come by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...backends import Backend, Op, Problem
from ...nn import aspp, structure
from ...nn.aspp import ASPPForward
from ...nn.base import Fused, Unit
from ...nn.heads import Bottleneck, PSPForward
from ...nn.hrnetv2 import HRNetV2Forward, Parts
from ...nn.mixing import HeadForward, Layers, first_conv, run_all
from ...nn.ppm import Level, why_not_grids, why_not_levels
from ...nn.upernet import UPerForward

ORDER = ("conv", "norm", "act")


def unit(block: Any) -> Unit:
    """The convolution and the norm of a ConvModule."""
    return Unit(block.conv, block.norm)


def why_not_block(path: str, block: Any, *, normed: bool = True, act: type[nn.Module] | None = nn.ReLU) -> str | None:
    """Why ``block`` is not a ConvModule of a convolution, a norm if ``normed``, and ``act``, called in that order."""
    if type(block).__name__ != "ConvModule":
        return f"{path} is a {type(block).__name__}, not a ConvModule"
    order = getattr(block, "order", ORDER)
    if tuple(order) != ORDER:
        return f"{path} has order={order}, not {ORDER}"
    norm = getattr(block, "norm_name", None) or "norm"
    kinds: dict[str, type[nn.Module]] = {"conv": nn.Conv2d}
    if normed:
        kinds[norm] = nn.Module
    if act is not None:
        kinds["activate"] = act
    return structure.why_not_children_of(path, block, kinds)


def why_not_blocks(path: str, blocks: Any) -> str | None:
    if not isinstance(blocks, nn.ModuleList | nn.Sequential) or not len(blocks):
        return f"{path} is not a list of ConvModules"
    return next(filter(None, (why_not_block(f"{path}.{i}", block) for i, block in enumerate(blocks))), None)


class DecodeHead(HeadForward):
    """What heads share: which of the backbone's maps they read, and the dropout and classifier that they end in."""

    helpers: ClassVar[tuple[str, ...]] = ("_forward_feature", "_transform_inputs", "psp_forward")
    #: The ``input_transform`` that the fused forward stands for.
    expected_transform: ClassVar[str | None] = None

    @classmethod
    def indices(cls, module: Any) -> Sequence[int]:
        return [module.in_index] if isinstance(module.in_index, int) else list(module.in_index)

    @classmethod
    def tail(cls, module: Any) -> Layers:
        return [module.cls_seg]

    @classmethod
    def example(cls, module: nn.Module, new: Callable[[int, int], Tensor]) -> Any:
        indices = cls.indices(module)
        x = [new(1, 1)] * max(i + 1 if i >= 0 else -i for i in indices)
        for level, (index, width) in enumerate(zip(indices, cls.widths(module), strict=True)):
            x[index] = new(width, 4 << level)
        return x

    def maps(self, x: Any) -> Sequence[Tensor]:
        indices = self.indices(self)
        found = isinstance(x, list | tuple) and all(-len(x) <= i < len(x) for i in indices)
        return [x[i] for i in indices] if found else ()

    @classmethod
    def why_not_inputs(cls, module: Any) -> str | None:
        """Why the head reads other maps, or reads them in another way."""
        if module.input_transform != cls.expected_transform:
            return f"input_transform is {module.input_transform!r}, not {cls.expected_transform!r}"
        return None


def pyramid(module: Any) -> Bottleneck:
    """The convolution over a map and its pyramid, which has an ``align_corners`` of its own."""
    levels = [Level(pool, unit(block)) for pool, block in module.psp_modules]
    return Bottleneck(levels, unit(module.bottleneck), True, module.psp_modules.align_corners)


def why_not_pyramid(module: Any) -> str | None:
    reason = why_not_levels("psp_modules", module._modules.get("psp_modules"), why_not_block)
    reason = reason or why_not_block("bottleneck", module._modules.get("bottleneck"))
    return reason or why_not_grids(pyramid(module).levels)


class PSPHeadForward(DecodeHead, PSPForward):
    """PSPHead: a pyramid on one map, x first, and the convolution over it."""

    @classmethod
    def pyramid(cls, module: Any) -> Bottleneck:
        return pyramid(module)

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        reason = cls.why_not_inputs(module) or why_not_pyramid(module)
        return reason or pyramid(module).why_not("bottleneck.conv")


class UPerHeadForward(DecodeHead, UPerForward):
    """UPerHead: the layers of transformers' UperNetHead, made of ConvModules."""

    expected_transform = "multiple_select"

    @classmethod
    def unit(cls, block: Any) -> Unit:
        return unit(block)

    @classmethod
    def why_not_block(cls, path: str, block: Any) -> str | None:
        return why_not_block(path, block)

    @classmethod
    def top(cls, module: Any) -> Bottleneck:
        return pyramid(module)

    @classmethod
    def why_not_levels(cls, module: Any) -> str | None:
        return why_not_pyramid(module)

    @classmethod
    def why_not_tail(cls, module: Any) -> str | None:
        return cls.why_not_inputs(module)


class FCNHeadForward(DecodeHead, HRNetV2Forward):
    """FCNHead with ``input_transform="resize_concat"``: how HRNetV2 runs here."""

    expected_transform = "resize_concat"

    @classmethod
    def parts(cls, module: Any) -> Parts:
        first, *others = module.convs
        return Parts(unit(first), [*others, *cls.tail(module)], module.align_corners)

    @classmethod
    def widths(cls, module: Any) -> list[int]:
        # The head knows only their sum.
        count = len(cls.indices(module))
        return [(module.in_channels + i) // count for i in range(count)]

    def fits(self, channels: Sequence[int]) -> bool:
        return sum(channels) == self.units(self)[0].conv.in_channels

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        reason = cls.why_not_inputs(module) or why_not_blocks("convs", module._modules.get("convs"))
        if reason is None and module.concat_input:
            reason = "conv_cat reads the maps again, upsampled and concatenated"
        return reason or cls.why_not_parts("convs.0.conv", cls.parts(module), module.in_channels)


class SegformerHeadForward(DecodeHead, HRNetV2Forward):
    """SegformerHead. A norm and a ReLU follow every 1x1, so it stays a layer of its own, at its map's own size."""

    expected_transform = "multiple_select"

    @classmethod
    def parts(cls, module: Any) -> Parts:
        return Parts(unit(module.fusion_conv), cls.tail(module), module.align_corners)

    @classmethod
    def widths(cls, module: Any) -> list[int]:
        return [first_conv(conv).in_channels for conv in module.convs]

    @classmethod
    def outputs(cls, module: Any) -> list[int]:
        return [first_conv(conv).out_channels for conv in module.convs]

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        if module.interpolate_mode != "bilinear":
            return f"interpolate_mode is {module.interpolate_mode!r}, not 'bilinear'"
        return (
            cls.why_not_inputs(module)
            or why_not_blocks("convs", module._modules.get("convs"))
            or why_not_block("fusion_conv", module._modules.get("fusion_conv"))
            or cls.why_not_parts("fusion_conv.conv", cls.parts(module), sum(cls.outputs(module)))
        )

    def levels(self, maps: Sequence[Tensor]) -> Sequence[Tensor]:
        convs: Any = self.convs
        return [conv(m) for conv, m in zip(convs, maps, strict=True)]

    def level_shapes(self, maps: Sequence[Tensor]) -> Sequence[Tensor]:
        widths = self.outputs(self)
        return [m.new_empty((len(m), width, *m.shape[2:])) for m, width in zip(maps, widths, strict=True)]


class ASPPHeadForward(DecodeHead, ASPPForward):
    """ASPPHead: the image-level branch first, and a 3x3 over all of them."""

    pool_first = True
    calls_norms = False

    @classmethod
    def branch(cls, block: Any) -> Unit:
        return unit(block)

    @classmethod
    def why_not_branch(cls, path: str, block: Any) -> str | None:
        return why_not_block(path, block) or structure.why_not_branch(f"{path}.conv", unit(block))

    @classmethod
    def parts(cls, module: Any) -> aspp.Parts:
        branches = [cls.branch(block) for block in module.aspp_modules]
        return aspp.Parts(branches, unit(module.image_pool[1]), unit(module.bottleneck), [])

    @classmethod
    def widths(cls, module: Any) -> list[int]:
        return [module.image_pool[1].conv.in_channels]

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        pool, branches = module._modules.get("image_pool"), module._modules.get("aspp_modules")
        if not isinstance(branches, nn.ModuleList) or not len(branches):
            return "aspp_modules is not a list of branches"
        blocks = ((f"aspp_modules.{i}", block) for i, block in enumerate(branches))
        reason = cls.why_not_inputs(module)
        reason = reason or structure.why_not_sequence("image_pool", pool, nn.AdaptiveAvgPool2d, nn.Module)
        if reason is None and pool[0].output_size not in (1, (1, 1)):
            reason = f"image_pool.0 pools to {pool[0].output_size}, not 1"
        reason = reason or why_not_block("image_pool.1", pool[1])
        reason = reason or structure.why_not_conv("image_pool.1.conv", pool[1].conv)
        reason = reason or next(filter(None, (cls.why_not_branch(*block) for block in blocks)), None)
        reason = reason or why_not_block("bottleneck", module._modules.get("bottleneck"))
        reason = reason or structure.why_not_conv("bottleneck.conv", module.bottleneck.conv, (1, 3))
        reason = reason or structure.why_not_units(cls.units(module))
        return reason or cls.why_not_project("bottleneck.conv", module)

    def why_slower(self, x: Any) -> str | None:
        return None

    def backend_of(self, op: Op) -> Backend:
        return self.kernel_backend

    def rest(self, y: Tensor, x: Any) -> Tensor:
        """What follows the bottleneck's ReLU, beside the maps that the head was given."""
        return run_all(self.tail(self), y)

    def fused_forward(self, x: Any) -> Tensor:
        return self.rest(super().fused_forward(*self.maps(x)), x)

    def problems(self, x: Any) -> list[tuple[Op, Problem, tuple[int, ...]]]:
        return super().problems(*self.maps(x))


class SeparableASPPHeadForward(ASPPHeadForward):
    """DepthwiseSeparableASPPHead, DeepLab v3+'s: only what leads to its ``bottleneck`` is fused.

    A norm and a ReLU follow every depthwise 3x3, which stays a layer of its own. In the decoder as well, where nothing
    can be mixed before the upsampling.
    """

    own_chain = True
    helpers = ("_transform_inputs",)

    @classmethod
    def branch(cls, block: Any) -> Unit:
        separable = "pointwise_conv" in block._modules
        return unit(block.pointwise_conv)._replace(depthwise=block.depthwise_conv) if separable else unit(block)

    @classmethod
    def why_not_branch(cls, path: str, block: Any) -> str | None:
        if type(block).__name__ != "DepthwiseSeparableConvModule":
            return super().why_not_branch(path, block)
        reason = structure.why_not_children_of(
            path, block, dict.fromkeys(("depthwise_conv", "pointwise_conv"), nn.Module)
        )
        return reason or super().why_not_branch(f"{path}.pointwise_conv", block.pointwise_conv)

    @classmethod
    def units(cls, module: nn.Module) -> list[Unit]:
        return [found._replace(depthwise=None) for found in super().units(module)]

    @classmethod
    def example(cls, module: Any, new: Callable[[int, int], Tensor]) -> Any:
        x = super().example(module, new)
        if module.c1_bottleneck is None:
            return x
        return [new(first_conv(module.c1_bottleneck).in_channels, 4), *(x[1:] or x)]

    def rest(self, y: Tensor, x: Any) -> Tensor:
        head: Any = self
        if head.c1_bottleneck is not None:
            fine = head.c1_bottleneck(x[0])
            y = F.interpolate(y, size=fine.shape[2:], mode="bilinear", align_corners=head.align_corners)
            y = torch.cat([y, fine], 1)
        return head.cls_seg(head.sep_bottleneck(y))


#: Adapters by the module and the name of the class.
CLASSES: dict[tuple[str, str], type[Fused]] = {
    ("mmseg.models.decode_heads.psp_head", "PSPHead"): PSPHeadForward,
    ("mmseg.models.decode_heads.uper_head", "UPerHead"): UPerHeadForward,
    ("mmseg.models.decode_heads.fcn_head", "FCNHead"): FCNHeadForward,
    ("mmseg.models.decode_heads.segformer_head", "SegformerHead"): SegformerHeadForward,
    ("mmseg.models.decode_heads.sep_aspp_head", "DepthwiseSeparableASPPHead"): SeparableASPPHeadForward,
    ("mmseg.models.decode_heads.aspp_head", "ASPPHead"): ASPPHeadForward,
}
