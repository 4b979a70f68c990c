"""UPerNet's head, with the parameters and keys of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from ..backends import Backend, Calls
from . import structure
from .base import Unit, check_backend, problems_of
from .heads import Bottleneck, why_not_joined
from .kinds import why_not_kind
from .mixing import HeadForward, Layers, around, copy_layers, first_conv, mix, out_channels, run_all
from .ppm import Level, why_not_grids, why_not_levels


class ConvNormReLU(nn.Module):
    """A same-padded convolution without bias, its norm and a ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.batch_norm = nn.BatchNorm2d(out_channels)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.batch_norm(self.conv(x)))


class ReferenceUPerHead(nn.Module):
    """``UPerHead`` in plain PyTorch: the same parameters and ``state_dict`` keys."""

    def __init__(
        self, in_channels: Sequence[int], channels: int, classes: int, bins: Sequence[int] = (1, 2, 3, 6), *,
        align_corners: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if not in_channels or not bins:
            raise ValueError("in_channels and bins must not be empty")
        *finer, last = in_channels
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(b), ConvNormReLU(last, channels, 1)) for b in bins
        )
        self.bottleneck = ConvNormReLU(last + len(bins) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvNormReLU(c, channels, 1) for c in finer)
        self.fpn_convs = nn.ModuleList(ConvNormReLU(channels, channels, 3) for _ in finer)
        self.fpn_bottleneck = ConvNormReLU(len(in_channels) * channels, channels, 3)
        self.classifier = nn.Conv2d(channels, classes, 1)
        self.align_corners = align_corners

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        last = maps[-1]
        levels = [self._resized(level(last), last) for level in self.psp_modules]
        laterals = [self.bottleneck(torch.cat([last, *levels], 1))]
        for lateral, m in zip(self.lateral_convs[::-1], maps[-2::-1], strict=True):
            finer = lateral(m)
            laterals.insert(0, finer + self._resized(laterals[0], finer))
        *finer, top = laterals
        outputs = [conv(m) for conv, m in zip(self.fpn_convs, finer, strict=True)] + [top]
        joined = torch.cat([self._resized(m, outputs[0]) for m in outputs], 1)
        return self.classifier(self.fpn_bottleneck(joined))

    def _resized(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=self.align_corners)


class Parts(NamedTuple):
    """Every layer, those of the feature pyramid from the finest map on."""

    laterals: list[nn.Module]
    outputs: list[nn.Module]
    fuse: Unit
    tail: Layers
    align_corners: bool


class UPerForward(HeadForward):
    """The fused forward of every class in ``UPerHead``'s layout: two convolutions over maps of several sizes.

    One is over the last map and its pyramid, the other over the feature pyramid; between them, each finer map takes the
    coarser one, upsampled, in one pass.
    """

    @classmethod
    def unit(cls, block: Any) -> Unit:
        """The convolution and the norm of a block."""
        return Unit(block.conv, block.batch_norm)

    @classmethod
    def why_not_block(cls, path: str, block: Any) -> str | None:
        """Why ``block`` is not a convolution, a norm and a ReLU by the names that transformers gives them."""
        kinds = {"conv": nn.Conv2d, "batch_norm": nn.Module, "activation": nn.ReLU}
        return structure.why_not_children_of(path, block, kinds)

    @classmethod
    def tail(cls, module: Any) -> Layers:
        """What follows the convolution over the feature pyramid and its ReLU."""
        return [module.classifier]

    @classmethod
    def parts(cls, module: Any) -> Parts:
        fuse, tail = cls.unit(module.fpn_bottleneck), cls.tail(module)
        return Parts(list(module.lateral_convs), list(module.fpn_convs), fuse, tail, module.align_corners)

    @classmethod
    def levels(cls, module: Any) -> list[Level]:
        return [Level(pool, cls.unit(block)) for pool, block in module.psp_modules]

    @classmethod
    def top(cls, module: Any) -> Bottleneck:
        """The convolution over the last map and its pyramid."""
        return Bottleneck(cls.levels(module), cls.unit(module.bottleneck), True, module.align_corners)

    @classmethod
    def units(cls, module: nn.Module) -> list[Unit]:
        return [*cls.top(module).units, cls.parts(module).fuse]

    @classmethod
    def widths(cls, module: nn.Module) -> list[int]:
        laterals = cls.parts(module).laterals
        return [*(first_conv(lateral).in_channels for lateral in laterals), cls.top(module).width]

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        blocks = {
            "bottleneck": module._modules.get("bottleneck"),
            "fpn_bottleneck": module._modules.get("fpn_bottleneck"),
        }
        for name in ("lateral_convs", "fpn_convs"):
            children: Any = module._modules.get(name)
            if not isinstance(children, nn.ModuleList):
                return f"{name} is not a ModuleList"
            blocks |= {f"{name}.{i}": child for i, child in enumerate(children)}
        return (
            cls.why_not_tail(module)
            or next(filter(None, (cls.why_not_block(path, block) for path, block in blocks.items())), None)
            or cls.why_not_levels(module)
            or cls.top(module).why_not("bottleneck.conv")
            or cls.why_not_parts("fpn_bottleneck.conv", cls.parts(module), module.bottleneck)
        )

    @classmethod
    def why_not_levels(cls, module: Any) -> str | None:
        """Why the pyramid of the last map is another one."""
        reason = why_not_levels("psp_modules", module._modules.get("psp_modules"), cls.why_not_block)
        return reason or why_not_grids(cls.levels(module))

    @classmethod
    def why_not_tail(cls, module: Any) -> str | None:
        reason = why_not_kind(module._modules.get("classifier"), nn.Conv2d)
        return f"classifier {reason}" if reason else None

    @classmethod
    def why_not_parts(cls, path: str, parts: Parts, top: nn.Module) -> str | None:
        """Why the feature pyramid over what ``top`` gives, whose layers are known to be there, is another one."""
        if len(parts.laterals) != len(parts.outputs):
            return f"there are {len(parts.laterals)} lateral convolutions and {len(parts.outputs)} after them"
        joined = sum(map(out_channels, (*parts.outputs, top)))
        return why_not_joined(path, parts.fuse.conv, joined) or structure.why_not_units([parts.fuse])

    def top_map(self, x: Tensor) -> Tensor:
        return self.top(self)(x, self.kernel_backend)

    def fused_forward(self, x: Any) -> Tensor:
        parts, backend = self.parts(self), self.kernel_backend
        *maps, last = self.maps(x)
        outputs = [self.top_map(last)]
        state = outputs[0]
        for lateral, conv, m in reversed(list(zip(parts.laterals, parts.outputs, maps, strict=True))):
            state = functional.upsample_merge(
                [lateral(m), state], merge="sum", align_corners=parts.align_corners, backend=around(backend)
            )
            outputs.insert(0, conv(state))
        size = (outputs[0].shape[2], outputs[0].shape[3])
        y = mix(outputs, parts.fuse, size, align_corners=parts.align_corners, backend=backend)
        return run_all(parts.tail, y)

    def problems(self, x: Any) -> Calls:
        parts, maps = self.parts(self), self.maps(x)
        weight, corners = parts.fuse.conv.weight, parts.align_corners
        width = weight.shape[1] // len(maps)
        outputs = [m.new_empty((len(m), width, m.shape[2], m.shape[3])) for m in maps]
        size = (outputs[0].shape[2], outputs[0].shape[3])
        merges = [problems_of(functional.upsample_merge, outputs[i : i + 2], merge="sum") for i in range(len(maps) - 1)]
        fuse = problems_of(functional.pyramid_conv, outputs, weight, size=size, align_corners=corners)
        return [*self.top_problems(maps[-1]), *sum(merges, []), *fuse]

    def top_problems(self, x: Tensor) -> Calls:
        return self.top(self).problems(x)


class UPerHead(UPerForward, ReferenceUPerHead):
    """UPerNet's head: pyramid pooling on the last map, a feature pyramid above it, a 3x3 over all of it, a classifier.

    maps: one (N, in_channels[i], H_i, W_i) per level, the finest first -> class scores (N, classes, H_0, W_0) in their
    dtype. Keys of transformers' ``UperNetHead``.

    Args:
        in_channels: channels of every map.
        channels, classes: channels of every level and of the result.
        bins: one int or (rows, cols) per level of the last map's pyramid.
        align_corners: of every upsampling; False in transformers.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Raises:
        ValueError: naming the argument.

    Source: Xiao et al., Unified Perceptual Parsing for Scene Understanding, 2018.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int, classes: int, bins: Sequence[int] = (1, 2, 3, 6), *,
        align_corners: bool = False, backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(in_channels, channels, classes, bins, align_corners=align_corners)
        self.kernel_backend = check_backend(backend)

    @classmethod
    def from_reference(cls, module: Any, *, align_corners: bool = False, backend: Backend = "auto") -> Self:
        """A copy of ``module``, any head with these layers at these paths (transformers', this one's)."""
        corners = getattr(module, "align_corners", align_corners)
        try:
            finer, levels = len(module.lateral_convs), len(module.psp_modules._modules)
            head = cls((1,) * (finer + 1), 1, 1, (1,) * levels, align_corners=corners, backend=backend)
            copy_layers(head, module)
        except (AttributeError, ValueError) as error:
            kind = type(module).__name__
            raise ValueError(f"module must be a head in UperNetHead's layout, got a {kind}: {error}") from None
        structure.check_layout(module, "a head in UperNetHead's layout", head.why_not(head))
        return head
