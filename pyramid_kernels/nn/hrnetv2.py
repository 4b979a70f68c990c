"""HRNetV2's head, with the parameters and keys of its official repository."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from ..backends import Backend, Calls
from . import structure
from .base import Unit, check_backend, problems_of
from .heads import why_not_joined
from .mixing import HeadForward, Layers, mix, run_all


class ReferenceHRNetV2Head(nn.Sequential):
    """``HRNetV2Head`` in plain PyTorch: the same parameters and ``state_dict`` keys."""

    def __init__(
        self, in_channels: Sequence[int], classes: int, *, channels: int | None = None, kernel_size: int = 1,
        align_corners: bool = False,
    ) -> None:  # fmt: skip
        if not in_channels:
            raise ValueError("in_channels must not be empty; give those of every map, such as (48, 96, 192, 384)")
        joined = sum(in_channels)
        channels = channels or joined
        super().__init__(
            nn.Conv2d(joined, channels, 1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, classes, kernel_size, padding=kernel_size // 2),
        )
        self.in_channels, self.align_corners = tuple(in_channels), align_corners

    def __getitem__(self, index: Any) -> Any:
        """A layer, or a plain Sequential of a slice of them."""
        if isinstance(index, slice):
            return nn.Sequential(OrderedDict(list(self._modules.items())[index]))
        return super().__getitem__(index)

    def forward(self, maps: Sequence[Tensor] | Tensor) -> Tensor:
        return super().forward(maps if isinstance(maps, Tensor) else self._joined(maps))

    def _joined(self, maps: Sequence[Tensor]) -> Tensor:
        first, *others = maps
        size, corners = first.shape[2:], self.align_corners
        resized = [F.interpolate(m, size=size, mode="bilinear", align_corners=corners) for m in others]
        return torch.cat([first, *resized], 1)


class Parts(NamedTuple):
    """What joins the maps, the rest, and how the maps are upsampled."""

    fuse: Unit
    tail: Layers
    align_corners: bool


class HRNetV2Forward(HeadForward):
    """The fused forward of every head that joins maps of several sizes, the finest first, by one convolution."""

    @classmethod
    def parts(cls, module: Any) -> Parts:
        conv, norm, _, *tail = module
        return Parts(Unit(conv, norm, biased=True), tail, module.align_corners)

    @classmethod
    def units(cls, module: nn.Module) -> list[Unit]:
        return [cls.parts(module).fuse]

    @classmethod
    def widths(cls, module: Any) -> list[int]:
        return list(module.in_channels)

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        rest = [nn.Module] * (len(module._modules) - 3)
        reason = structure.why_not_sequence("the head", module, nn.Conv2d, nn.Module, nn.ReLU, *rest)
        if reason is None and not {"in_channels", "align_corners"} <= vars(module).keys():
            reason = "the head does not say its in_channels and align_corners"
        return reason or cls.why_not_parts("0", cls.parts(module), sum(cls.widths(module)))

    @classmethod
    def why_not_parts(cls, path: str, parts: Parts, joined: int) -> str | None:
        """Why the convolution at ``path`` is not one over ``joined`` channels that ``pyramid_conv`` computes."""
        return why_not_joined(path, parts.fuse.conv, joined) or structure.why_not_units([parts.fuse])

    def levels(self, maps: Sequence[Tensor]) -> Sequence[Tensor]:
        """The maps as they are joined."""
        return maps

    def level_shapes(self, maps: Sequence[Tensor]) -> Sequence[Tensor]:
        """Empty maps in the place of those that ``levels`` gives."""
        return maps

    def fused_forward(self, x: Any) -> Tensor:
        parts, maps = self.parts(self), self.maps(x)
        size = (maps[0].shape[2], maps[0].shape[3])
        backend = self.kernel_backend
        y = mix(self.levels(maps), parts.fuse, size, align_corners=parts.align_corners, backend=backend)
        return run_all(parts.tail, y)

    def problems(self, x: Any) -> Calls:
        parts = self.parts(self)
        maps, weight = self.level_shapes(self.maps(x)), parts.fuse.conv.weight
        return problems_of(functional.pyramid_conv, maps, weight, align_corners=parts.align_corners)


class HRNetV2Head(HRNetV2Forward, ReferenceHRNetV2Head):
    """HRNetV2's head: maps of several sizes, upsampled to the finest and concatenated, a 1x1, a classifier.

    maps: one (N, in_channels[i], H_i, W_i) per level, the finest first -> class scores (N, classes, H_0, W_0) in their
    dtype. Maps already upsampled and concatenated, as the official forward hands them over, are taken too, unfused.
    A Sequential with the keys ``0``, ``1``, ``3`` of the official ``last_layer``: in its place, checkpoints still load.

    Args:
        in_channels: channels of every map.
        classes, channels: channels of the result, and of the 1x1 in front (default: those of all maps together).
        kernel_size: of the classifier, FINAL_CONV_KERNEL in the official configurations.
        align_corners: of the upsampling; MODEL.ALIGN_CORNERS in the official code, False in versions without it.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Raises:
        ValueError: naming the argument.

    Source: Sun et al., High-Resolution Representations for Labeling Pixels and Regions, 2019; keys of
    HRNet-Semantic-Segmentation.
    """

    def __init__(
        self, in_channels: Sequence[int], classes: int, *, channels: int | None = None, kernel_size: int = 1,
        align_corners: bool = False, backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, classes, channels=channels, kernel_size=kernel_size, align_corners=align_corners
        )  # fmt: skip
        self.kernel_backend = check_backend(backend)

    @classmethod
    def from_reference(
        cls, module: Any, in_channels: Sequence[int] = (), *, align_corners: bool = False, backend: Backend = "auto"
    ) -> Self:
        """A copy of ``module``, a Sequential of convolution, norm, ReLU and anything else, for maps of ``in_channels``.

        OCR's ``aux_head`` and ``conv3x3_ocr`` are such ones too.
        """
        if not isinstance(module, nn.Sequential):
            raise ValueError(f"module must be a Sequential, as last_layer in HRNetV2, got a {type(module).__name__}")
        in_channels = getattr(module, "in_channels", in_channels)
        head = cls(in_channels, 1, align_corners=getattr(module, "align_corners", align_corners), backend=backend)
        head._modules.clear()
        for name, layer in module.named_children():
            head.add_module(name, copy.deepcopy(layer))
        head.training = module.training
        structure.check_layout(module, "a head in HRNetV2's layout", head.why_not(head))
        return head
