"""DeepLab v3+'s decoder, with the parameters and keys of segmentation_models_pytorch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from ..backends import Backend, Calls
from ..ops._shared.constants import derived
from ..ops.pyramid_conv.layout import split
from . import structure
from .aspp import ASPP, ReferenceASPP, new_branch, unit_of
from .base import Unit, check_backend, problems_of
from .mixing import HeadForward, around, first_conv, mix, out_channels


class ReferenceDeepLabV3PlusDecoder(nn.Module):
    """``DeepLabV3PlusDecoder`` in plain PyTorch: the same parameters and ``state_dict`` keys."""

    def __init__(
        self, in_channels: int, low_channels: int, out_channels: int = 256,
        atrous_rates: Sequence[int] = (12, 24, 36), *, low_width: int = 48, separable: bool = True,
        dropout: float = 0.5, align_corners: bool = True, low_first: bool = False, low_index: int = 2,
        refine: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        aspp = ReferenceASPP(in_channels, atrous_rates, out_channels, separable=separable, dropout=dropout)
        refined = new_branch(out_channels, out_channels, 3, apart=separable) if refine else ()
        self.aspp = nn.Sequential(aspp, *refined)
        self.block1 = new_branch(low_channels, low_width)
        self.block2 = new_branch(out_channels + low_width, out_channels, 3, apart=separable)
        self.align_corners, self.low_first, self.low_index = align_corners, low_first, low_index

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        low, high = self.block1(maps[self.low_index]), self.aspp(maps[-1])
        high = F.interpolate(high, size=low.shape[2:], mode="bilinear", align_corners=self.align_corners)
        return self.block2(torch.cat([low, high] if self.low_first else [high, low], 1))


class Parts(NamedTuple):
    """What is called on the last map and on the low-level one, what joins them, and how."""

    high: nn.Module
    low: nn.Module
    fuse: Unit
    low_first: bool
    align_corners: bool
    low_index: int

    @property
    def widths(self) -> list[int]:
        """The channels of the low-level map and of the last one."""
        return [first_conv(part).in_channels for part in (self.low, self.high)]

    def ordered(self, low: Any, high: Any) -> list[Any]:
        """(low, high) in the order of the concat, or two parts in that order as (low, high)."""
        return [low, high] if self.low_first else [high, low]


class DeepLabV3PlusForward(HeadForward):
    """The fused forward of every class in ``DeepLabV3PlusDecoder``'s layout; the ASPP in it has its own."""

    @classmethod
    def parts(cls, module: Any) -> Parts:
        order = module.low_first, module.align_corners, module.low_index
        return Parts(module.aspp, module.block1, unit_of(*module.block2), *order)

    @classmethod
    def units(cls, module: nn.Module) -> list[Unit]:
        return [cls.parts(module).fuse]

    @classmethod
    def widths(cls, module: nn.Module) -> list[int]:
        return cls.parts(module).widths

    @classmethod
    def example(cls, module: Any, new: Callable[[int, int], Tensor]) -> Any:
        low, high = cls.widths(module)
        return [*(new(1, 1 << i) for i in range(cls.parts(module).low_index)), new(low, 4), new(high, 16)]

    @classmethod
    def why_not(cls, module: nn.Module) -> str | None:
        for name in ("aspp", "block1", "block2"):
            if not isinstance(module._modules.get(name), nn.Sequential):
                return f"{name} is not a Sequential"
        fuse: Any = module._modules["block2"]
        kind = nn.Sequential if len(fuse) and isinstance(fuse[0], nn.Sequential) else nn.Conv2d
        reason = structure.why_not_sequence("block2", fuse, kind, nn.Module, nn.ReLU)
        if not reason and kind is nn.Sequential:
            reason = structure.why_not_sequence("block2.0", fuse[0], nn.Conv2d, nn.Conv2d)
        low: Any = module._modules["block1"]
        reason = reason or structure.why_not_sequence("block1", low, nn.Conv2d, nn.Module, nn.ReLU)
        return reason or cls.why_not_parts("block2.0", cls.parts(module))

    @classmethod
    def why_not_parts(cls, path: str, parts: Parts) -> str | None:
        """Why the layers, already known to be there, are not what ``fused_forward`` assumes."""
        unit = parts.fuse
        spatial = unit.depthwise or unit.conv
        reason = structure.why_not_branch(path, unit)
        if reason is None and spatial.dilation != (1, 1):
            reason = f"{path} has dilation={spatial.dilation}, not 1"
        joined = out_channels(parts.low) + out_channels(parts.high)
        if reason is None and spatial.in_channels != joined:
            reason = f"{path} takes {spatial.in_channels} channels, and the maps have {joined}"
        if reason is None and unit.depthwise is not None and unit.depthwise.bias is not None:
            reason = f"{path}.0 has a bias in front of its 1x1"
        return reason or structure.why_not_units([unit])

    def maps(self, x: Any) -> Sequence[Tensor]:
        index = self.parts(self).low_index
        return [x[index], x[-1]] if isinstance(x, list | tuple) and len(x) > index + 1 else ()

    def why_slower(self, x: Any) -> str | None:
        if self.parts(self).fuse.depthwise is not None:
            if self.maps(x)[0].device.type == "cpu":
                return "on a CPU a depthwise convolution and a 1x1 are faster than one dense 3x3"
            ((_, _, (n, o, k, *size, c, rows, cols)),) = self.problems(x)
            if not split([(n, c, rows, cols)], (o, c, k, k), size)[1]:
                return "the last map is too near in size to the low-level one for one dense 3x3"
        return super().why_slower(x)

    def fused_forward(self, x: Any) -> Tensor:
        parts = self.parts(self)
        low, high = self.maps(x)
        low, high = parts.low(low), parts.high(high)
        if parts.fuse.depthwise is None:
            maps, size = parts.ordered(low, high), (low.shape[2], low.shape[3])
            return mix(maps, parts.fuse, size, align_corners=parts.align_corners, backend=self.kernel_backend)
        return self._separable(low, high, parts)

    def _separable(self, low: Tensor, high: Tensor, parts: Parts) -> Tensor:
        """The two steps become one 3x3 for the coarse map, which it meets at its own size; the fine one takes both."""
        spatial, pointwise, norm = parts.fuse.depthwise, parts.fuse.conv, parts.fuse.norm
        assert spatial is not None
        widths = parts.ordered(low.shape[1], high.shape[1])
        low_spatial, _ = parts.ordered(*spatial.weight.split(widths))
        low_weight, _ = parts.ordered(*pointwise.weight.split(widths, 1))
        weight = derived(_dense, spatial, pointwise, widths, int(parts.low_first))
        y = F.conv2d(F.conv2d(low, low_spatial, padding=1, groups=low.shape[1]), low_weight, pointwise.bias)
        y = y + functional.pyramid_conv(
            [high], weight, size=(low.shape[2], low.shape[3]), align_corners=parts.align_corners,
            backend=self.kernel_backend,
        )  # fmt: skip
        return torch.relu(norm(y))

    def problems(self, x: Any) -> Calls:
        parts = self.parts(self)
        low, high = self.maps(x)
        conv, size = parts.fuse.conv, (low.shape[2], low.shape[3])
        width = first_conv(parts.low).out_channels
        fine = low.new_empty((len(low), width, *size))
        coarse = high.new_empty((len(high), conv.in_channels - width, high.shape[2], high.shape[3]))
        maps = parts.ordered(fine, coarse) if parts.fuse.depthwise is None else [coarse]
        weight = conv.weight.new_empty((conv.out_channels, sum(m.shape[1] for m in maps), 3, 3))
        return problems_of(functional.pyramid_conv, maps, weight, size=size, align_corners=parts.align_corners)


def _dense(spatial: nn.Conv2d, pointwise: nn.Conv2d, widths: list[int], part: int) -> Tensor:
    """The 3x3 that a depthwise 3x3 and a 1x1 are together, for one part of their input channels."""
    return pointwise.weight.split(widths, 1)[part] * spatial.weight.split(widths)[part].transpose(0, 1)


class DeepLabV3PlusDecoder(DeepLabV3PlusForward, ReferenceDeepLabV3PlusDecoder):
    """DeepLab v3+'s decoder: ASPP, perhaps a 3x3, on the last map, upsampled beside a narrow low-level one, then a 3x3.

    maps: list of (N, C_i, H_i, W_i), of which ``low_index`` and the last are read -> (N, out_channels, H, W) at the
    size of the low-level map, in its dtype. Keys ``aspp``, ``block1`` and ``block2`` of segmentation_models_pytorch.

    Args:
        in_channels, low_channels, out_channels: channels of the last map, of the low-level map, of the result.
        atrous_rates, dropout: of the ASPP.
        low_width: channels of the low-level map after its 1x1.
        separable: 3x3 convolutions, those of the ASPP too, as depthwise 3x3, then 1x1, nothing between.
        align_corners: of the upsampling; True in segmentation_models_pytorch and in much research code.
        low_first: the low-level map is concatenated first, not last.
        low_index: place of the low-level map.
        refine: a 3x3 behind the ASPP, which segmentation_models_pytorch has and the paper has not.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Raises:
        ValueError: naming the argument.

    Source: Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, 2018.
    """

    def __init__(
        self, in_channels: int, low_channels: int, out_channels: int = 256,
        atrous_rates: Sequence[int] = (12, 24, 36), *, low_width: int = 48, separable: bool = True,
        dropout: float = 0.5, align_corners: bool = True, low_first: bool = False, low_index: int = 2,
        refine: bool = True, backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, low_channels, out_channels, atrous_rates, low_width=low_width, separable=separable,
            dropout=dropout, align_corners=align_corners, low_first=low_first, low_index=low_index,
            refine=refine,
        )  # fmt: skip
        self.kernel_backend = check_backend(backend)
        self.aspp[0].__class__ = ASPP
        self.aspp[0].kernel_backend = around(backend)  # type: ignore[assignment]

    @classmethod
    def from_reference(
        cls, module: Any, *, align_corners: bool = True, low_first: bool = False, low_index: int = 2,
        backend: Backend = "auto",
    ) -> Self:  # fmt: skip
        """A copy of ``module``, any decoder in this layout; the arguments count where it has no such attribute."""
        settings = {"align_corners": align_corners, "low_first": low_first, "low_index": low_index}
        settings = {name: getattr(module, name, value) for name, value in settings.items()}
        decoder = cls(1, 1, 1, (), backend=backend, **settings)  # type: ignore[arg-type]
        children = {name: getattr(module, name, None) for name in ("aspp", "block1", "block2")}
        for name, child in children.items():
            if not isinstance(child, nn.Sequential):
                raise ValueError(f"module must have a Sequential {name}, got a {type(module).__name__}")
            setattr(decoder, name, nn.Sequential(*copy.deepcopy(child)))
            getattr(decoder, name).training = child.training
        decoder.aspp[0] = ASPP.from_reference(decoder.aspp[0], backend=around(backend))
        decoder.training = module.training
        structure.check_layout(module, "a decoder in this layout", decoder.why_not(decoder))
        return decoder

    def to_reference(self) -> nn.Module:
        """A copy in plain PyTorch, with the same parameters' values and ``state_dict`` keys."""
        module: Any = super().to_reference()
        module.aspp[0] = module.aspp[0].to_reference()
        return module
