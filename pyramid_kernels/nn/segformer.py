"""SegFormer's all-MLP head, with the parameters and keys of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from ..backends import Backend, Calls
from ..ops._shared.constants import derived
from . import structure
from .base import Unit, check_backend, is_plain, problems_of
from .heads import why_not_joined
from .kinds import why_not_kind
from .mixing import HeadForward, Layers, Size, copy_layers, mix, run_all


class LevelProjection(nn.Module):
    """A linear layer on the channels of a map."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.movedim(1, -1)).movedim(-1, 1)


class ReferenceSegFormerHead(nn.Module):
    """``SegFormerHead`` in plain PyTorch: the same parameters and ``state_dict`` keys."""

    def __init__(self, in_channels: Sequence[int], channels: int, classes: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        if not in_channels:
            raise ValueError("in_channels must not be empty; give those of every map, such as (32, 64, 160, 256)")
        self.linear_projections = nn.ModuleList(LevelProjection(c, channels) for c in in_channels)
        self.linear_fuse = nn.Conv2d(len(in_channels) * channels, channels, 1, bias=False)
        self.batch_norm = nn.BatchNorm2d(channels)
        self.activation = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[0].shape[2:]
        levels = [project(m) for project, m in zip(self.linear_projections, maps, strict=True)]
        levels = [F.interpolate(level, size=size, mode="bilinear", align_corners=False) for level in levels]
        y = self.activation(self.batch_norm(self.linear_fuse(torch.cat(levels[::-1], 1))))
        return self.classifier(self.dropout(y))


class Parts(NamedTuple):
    """The linear layer of every map in the order in which their results are concatenated, what fuses them, the rest."""

    linears: list[nn.Linear]
    fuse: Unit
    tail: Layers


class SegFormerForward(HeadForward):
    """The fused forward of every class in ``SegFormerHead``'s layout.

    Nothing stands between a map's linear layer and the 1x1 over all levels, so one matrix per map does the work of
    both, at the map's own size.
    """

    @classmethod
    def parts(cls, module: Any) -> Parts:
        linears = [level.proj for level in module.linear_projections]
        fuse = Unit(module.linear_fuse, module.batch_norm)
        return Parts(linears[::-1], fuse, [module.dropout, module.classifier])

    @classmethod
    def units(cls, module: nn.Module) -> list[Unit]:
        return [cls.parts(module).fuse]

    @classmethod
    def widths(cls, module: nn.Module) -> list[int]:
        return [linear.in_features for linear in cls.parts(module).linears[::-1]]

    @classmethod
    def why_not(cls, module: nn.Module) -> str | None:
        kinds = {"linear_fuse": nn.Conv2d, "activation": nn.ReLU, "dropout": nn.Dropout, "classifier": nn.Conv2d}
        for name, kind in kinds.items():
            reason = why_not_kind(module._modules.get(name), kind)
            if reason:
                return f"{name} {reason}"
        levels: Any = module._modules.get("linear_projections")
        if not isinstance(levels, nn.ModuleList) or not len(levels) or "batch_norm" not in module._modules:
            return "linear_projections is not a ModuleList of levels, or batch_norm is missing"
        for i, level in enumerate(levels):
            if list(level._modules) != ["proj"]:
                return f"linear_projections.{i} holds {list(level._modules)}, not ['proj']"
        return cls.why_not_parts(cls.parts(module))

    @classmethod
    def why_not_parts(cls, parts: Parts) -> str | None:
        """Why the layers, already known to be there, are not what ``fused_forward`` assumes."""
        for linear in parts.linears:
            reason = why_not_kind(linear, nn.Linear)
            if reason:
                return f"a projection {reason}"
            if not is_plain(linear.weight):
                return f"a projection's weight is a {type(linear.weight).__name__}"
        conv = parts.fuse.conv
        if conv.kernel_size != (1, 1):
            return f"the convolution over all levels has kernel_size={conv.kernel_size}, not 1"
        joined = sum(linear.out_features for linear in parts.linears)
        reason = why_not_joined("the convolution over all levels", conv, joined)
        return reason or structure.why_not_units([parts.fuse])

    def level_format(self, x: Tensor) -> torch.memory_format:
        """The memory format in which the own forward has the level of the map ``x``."""
        return torch.channels_last

    def size(self, x: Any) -> Size:
        """The size at which the levels meet."""
        first = self.maps(x)[0]
        return first.shape[2], first.shape[3]

    def fused_forward(self, x: Any) -> Tensor:
        parts = self.parts(self)
        weights, biases = [m.weight for m in parts.linears], [m.bias for m in parts.linears]
        conv = parts.fuse.conv
        weight, bias = derived(functional.compose_levels, conv.weight, weights, biases, conv.bias)
        # As the linear layers would have left them: a dropout draws its mask in the order of the memory.
        maps = [m.contiguous(memory_format=self.level_format(m)) for m in self.maps(x)][::-1]
        backend = self.kernel_backend
        y = mix(maps, parts.fuse, self.size(x), align_corners=False, backend=backend, weight=weight, bias=bias)
        return run_all(parts.tail, y)

    def problems(self, x: Any) -> Calls:
        maps = [torch.empty_like(m, memory_format=self.level_format(m)) for m in self.maps(x)][::-1]
        conv = self.parts(self).fuse.conv
        weight = conv.weight.new_empty((conv.out_channels, sum(m.shape[1] for m in maps), 1, 1))
        return problems_of(functional.pyramid_conv, maps, weight, size=self.size(x))


class SegFormerHead(SegFormerForward, ReferenceSegFormerHead):
    """SegFormer's head: a linear layer per map, all brought to the first map's size, a 1x1 over them, a classifier.

    maps: one (N, in_channels[i], H_i, W_i) per level, the finest first -> class scores (N, classes, H_0, W_0) in their
    dtype. Keys of transformers' ``SegformerDecodeHead``, whose concat has the coarsest map first.

    Args:
        in_channels: channels of every map.
        channels, classes: channels of every level and of the result.
        dropout: probability in front of the classifier.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Raises:
        ValueError: naming the argument.

    Source: Xie et al., SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, 2021.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int, classes: int, *, dropout: float = 0.1,
        backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(in_channels, channels, classes, dropout=dropout)
        self.kernel_backend = check_backend(backend)

    @classmethod
    def from_reference(cls, module: Any, *, backend: Backend = "auto") -> Self:
        """A copy of ``module``, any head in this layout (transformers', this one's)."""
        structure.check_layout(module, "a head in SegformerDecodeHead's layout", SegFormerForward.why_not(module))
        head = cls((1,) * len(module.linear_projections), 1, 1, backend=backend)
        copy_layers(head, module)
        return head
