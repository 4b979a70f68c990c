"""BiSeNet's attention refinement and feature fusion, with the parameters and keys of CoinCheung's BiSeNet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from ..backends import Backend, Calls, Op, automatic, select
from ..ops._shared.checks import check_choice
from . import structure
from .base import Fused, Unit, check_backend, problems_of, why_not_chain
from .gates import Gate
from .heads import why_not_joined
from .kinds import why_not_kind
from .mixing import HeadForward, mix
from .norm import uses_batch

NORMS = ("used", "unused", None)


def conv_norm_relu(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels), relu=nn.ReLU()))


class ReferenceAttentionRefinementModule(nn.Module):
    """``AttentionRefinementModule`` in plain PyTorch: the same parameters and ``state_dict`` keys."""

    def __init__(
        self, in_channels: int, out_channels: int | None = None, *, norm: str | None = "used", bias: bool = False
    ) -> None:
        super().__init__()
        check_choice("norm", norm, NORMS)
        width, suffix = out_channels or in_channels, "" if out_channels is None else "_atten"
        if out_channels is not None:
            self.conv: nn.Module = conv_norm_relu(in_channels, out_channels, 3)
        self.add_module(f"conv{suffix}", nn.Conv2d(width, width, 1, bias=bias))
        if norm is not None:
            self.add_module(f"bn{suffix}", nn.BatchNorm2d(width))
        self.norm_used = norm == "used"

    def forward(self, x: Tensor) -> Tensor:
        return ARMForward.gate(self).plain(ARMForward.refined(self, x))


class ARMForward(Fused):
    """The fused forward of every class in ``AttentionRefinementModule``'s layout."""

    # The 3x3 is PyTorch's, in whatever memory format the map has.
    calls_norms: ClassVar[bool] = True

    @classmethod
    def gate(cls, module: Any) -> Gate:
        first, norm = cls.names(module)
        used = getattr(module, "norm_used", True)
        return Gate(module._modules[first], module._modules[norm] if used else nn.Identity())

    @classmethod
    def names(cls, module: nn.Module) -> tuple[str, str]:
        """Of the gate's convolution and norm."""
        return ("conv_atten", "bn_atten") if "conv_atten" in module._modules else ("conv", "bn")

    @classmethod
    def refined(cls, module: Any, x: Tensor) -> Tensor:
        """``x`` as it is gated: behind the 3x3, where there is one."""
        return module.conv(x) if "conv_atten" in module._modules else x

    @classmethod
    def units(cls, module: nn.Module) -> list[Unit]:
        return cls.gate(module).units

    @classmethod
    def why_not(cls, module: nn.Module) -> str | None:
        first, norm = cls.names(module)
        used = getattr(module, "norm_used", True)
        for name, kind in ((first, nn.Conv2d), ("conv", nn.Module), *(((norm, nn.Module),) if used else ())):
            if not isinstance(module._modules.get(name), kind):
                return f"{name} is not a {kind.__name__}"
        return cls.gate(module).why_not(first)

    @classmethod
    def looks_like(cls, module: nn.Module) -> bool:
        """With the 3x3: without, a 1x1 ``conv`` and a norm ``bn`` are all of it, and of very many other classes."""
        return "conv_atten" in module._modules and super().looks_like(module)

    @classmethod
    def example(cls, module: nn.Module, new: Callable[[int, int], Tensor]) -> Any:
        return new(next(m for m in module.modules() if isinstance(m, nn.Conv2d)).in_channels, 4)

    def why_not_call(self, x: Any) -> str | None:
        reason = super().why_not_call(x)
        if reason is None and uses_batch(self.gate(self).norm):
            reason = "the gate's norm takes statistics of the batch, which only its own call does"
        return reason or why_not_chain(self.problems(x), self.kernel_backend)

    def fused_forward(self, x: Any) -> Tensor:
        return self.gate(self)(self.refined(self, x), self.kernel_backend)

    def problems(self, x: Any) -> Calls:
        return self.gate(self).problems(x)


class AttentionRefinementModule(ARMForward, ReferenceAttentionRefinementModule):
    """BiSeNet's attention refinement: a 3x3, norm and ReLU, whose channels a gate made of their means weighs.

    ``z * sigmoid(norm(conv(mean(z))))`` with z = x behind the 3x3, or x itself.
    x: (N, in_channels, H, W) -> (N, out_channels or in_channels, H, W) in its dtype. In training the gate's norm takes
    statistics of the N means, and the module runs in plain PyTorch.

    Args:
        in_channels, out_channels: of x, and of the 3x3; without out_channels there is none, and x is gated.
        norm: of the gate: "used", "unused" (in the ``state_dict``, never called, as in ooooverflow's BiSeNet) or None.
        bias: of the gate's 1x1.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Raises:
        ValueError: naming the argument.

    Source: Yu et al., BiSeNet, 2018; keys ``conv``, ``conv_atten``, ``bn_atten`` of CoinCheung/BiSeNet, or ``conv`` and
    ``bn`` of ooooverflow/BiSeNet where there is no 3x3.
    """

    def __init__(
        self, in_channels: int, out_channels: int | None = None, *, norm: str | None = "used", bias: bool = False,
        backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, norm=norm, bias=bias)
        self.kernel_backend = check_backend(backend)


class ReferenceFeatureFusionModule(nn.Module):
    """``FeatureFusionModule`` in plain PyTorch: the same parameters and ``state_dict`` keys."""

    def __init__(
        self, in_channels: int | Sequence[int], out_channels: int, *, kernel_size: int = 1, hidden: int | None = None,
        norm: bool | None = None, bias: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        check_choice("kernel_size", kernel_size, (1, 3))
        joined = in_channels if isinstance(in_channels, int) else sum(in_channels)
        self.in_channels = in_channels if isinstance(in_channels, int) else tuple(in_channels)
        self.convblk = conv_norm_relu(joined, out_channels, kernel_size)
        number = "" if hidden is None else "1"
        width = hidden or out_channels
        self.add_module(f"conv{number}", nn.Conv2d(out_channels, width, 1, bias=bias))
        if norm or (norm is None and hidden is None):
            self.add_module(f"bn{number}", nn.BatchNorm2d(width))
        if hidden is not None:
            self.conv2 = nn.Conv2d(hidden, out_channels, 1, bias=bias)

    def forward(self, *maps: Tensor) -> Tensor:
        return FFMForward.parts(self).gate.plain(self.convblk(joined(maps)))


def joined(maps: Sequence[Tensor]) -> Tensor:
    """All maps at the size of the first, side by side."""
    size = maps[0].shape[2:]
    sized = [m if m.shape[2:] == size else F.interpolate(m, size=size, mode="bilinear") for m in maps]
    return torch.cat(sized, 1)


class Parts(NamedTuple):
    """What joins the maps, all of it as one module, and the gate behind it."""

    fuse: Unit
    block: nn.Module
    gate: Gate


class FFMForward(HeadForward):
    """The fused forward of every class in ``FeatureFusionModule``'s layout."""

    spreads_maps: ClassVar[bool] = True
    #: Whether maps of other sizes are brought to that of the first.
    resizes: ClassVar[bool] = False

    @classmethod
    def parts(cls, module: Any) -> Parts:
        block, found = module.convblk, module._modules
        two = "conv2" in found
        norm = found.get("bn1" if two else "bn") or nn.Identity()
        gate = Gate(found["conv1" if two else "conv"], norm, two, found.get("conv2"), True)
        return Parts(Unit(*list(block.children())[:2]), block, gate)

    @classmethod
    def units(cls, module: nn.Module) -> list[Unit]:
        parts = cls.parts(module)
        return [parts.fuse, *parts.gate.units]

    @classmethod
    def widths(cls, module: nn.Module) -> list[int]:
        """Two of any split, where the module only knows their sum."""
        known, total = getattr(module, "in_channels", None), cls.parts(module).fuse.conv.in_channels
        return list(known) if isinstance(known, tuple) else [total - total // 2, total // 2]

    @classmethod
    def example(cls, module: nn.Module, new: Callable[[int, int], Tensor]) -> Any:
        return [new(width, 4) for width in cls.widths(module)]

    @classmethod
    def why_not(cls, module: nn.Module) -> str | None:
        block = dict(getattr(module._modules.get("convblk"), "_modules", {}))
        # The ReLU of some is a function.
        if len(block) not in (2, 3) or not all(map(structure.is_kind, block.values(), (nn.Conv2d, nn.Module, nn.ReLU))):
            return "convblk is not a convolution, a norm and a ReLU"
        two = "conv2" in module._modules
        names = ("conv1", "conv2") if two else ("conv",)
        for name in names:
            reason = why_not_kind(module._modules.get(name), nn.Conv2d)
            if reason:
                return f"{name} {reason}"
        return cls.why_not_parts(cls.parts(module), f"convblk.{next(iter(block))}", *names)

    @classmethod
    def why_not_parts(cls, parts: Parts, path: str, *gates: str) -> str | None:
        """Why the convolutions, at these paths, are not what ``fused_forward`` assumes."""
        conv = parts.fuse.conv
        reason = why_not_joined(path, conv, conv.in_channels) or structure.why_not_units([parts.fuse])
        if reason is None and conv.out_channels != parts.gate.first.in_channels:
            reason = f"{gates[0]} takes {parts.gate.first.in_channels} channels, and {conv.out_channels} come in"
        return reason or parts.gate.why_not(*gates)

    def fits(self, channels: Sequence[int]) -> bool:
        exact = isinstance(getattr(self, "in_channels", None), tuple)
        return super().fits(channels) if exact else sum(channels) == sum(self.widths(self))

    def why_not_input(self, x: Any) -> str | None:
        reason = super().why_not_input(x)
        if reason is None and not self.resizes and len({m.shape[2:] for m in x}) > 1:
            reason = "the maps differ in size"
        return reason

    def why_slower(self, x: Any) -> str | None:
        return why_not_chain(self.problems(x), self.kernel_backend)

    def backend_of(self, op: Op) -> Backend:
        return self.kernel_backend

    def forward(self, *maps: Tensor, **named: Tensor) -> Tensor:
        return self._answer(maps, named)

    def fused_forward(self, x: Any) -> Tensor:
        parts, backend = self.parts(self), self.kernel_backend
        # Maps of one size have nothing to be mixed before; and a norm of its own is one pass, the chain's affine two.
        joins = self._join(x)
        if not joins or (automatic(backend) and select(*joins[0], backend) == "reference"):
            y = parts.block(joined(x))
        else:
            size = (x[0].shape[2], x[0].shape[3])
            y = mix(x, parts.fuse, size, align_corners=False, backend=backend)
        return parts.gate(y, backend)

    def _join(self, x: Any) -> Calls:
        """What ``pyramid_conv`` is asked; nothing where all maps have one size."""
        if all(m.shape[2:] == x[0].shape[2:] for m in x):
            return []
        return problems_of(functional.pyramid_conv, x, self.parts(self).fuse.conv.weight)

    def problems(self, x: Any) -> Calls:
        return [*self._join(x), *self.parts(self).gate.problems(x[0])]


class FeatureFusionModule(FFMForward, ReferenceFeatureFusionModule):
    """BiSeNet's feature fusion: a convolution over all maps, norm and ReLU, then a gate beside a residual.

    ``z * sigmoid(g) + z`` with z = relu(norm(conv(cat(maps)))), and g made of the means of z by one 1x1 and norm, or by
    two 1x1 around a ReLU. maps: two or more (N, C_i, H_i, W_i), each an argument -> (N, out_channels, H_0, W_0) in
    their dtype. Maps of other sizes than the first are upsampled bilinearly (half pixels), and ``pyramid_conv`` then
    mixes each at its own. In training a gate's norm takes statistics of N means, and the gate runs in plain PyTorch.

    Args:
        in_channels: those of every map, or their sum for two maps.
        out_channels, kernel_size: of the convolution, 1x1 or 3x3.
        hidden: channels between two 1x1 of the gate; None for one.
        norm: behind the gate's first 1x1; by default where it is the only one.
        bias: of the gate's 1x1.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Raises:
        ValueError: naming the argument.

    Source: Yu et al., BiSeNet, 2018; keys ``convblk``, and ``conv``, ``bn`` or ``conv1``, ``conv2``, of
    CoinCheung/BiSeNet.
    """

    resizes = True

    def __init__(
        self, in_channels: int | Sequence[int], out_channels: int, *, kernel_size: int = 1, hidden: int | None = None,
        norm: bool | None = None, bias: bool = False, backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size=kernel_size, hidden=hidden, norm=norm, bias=bias)
        self.kernel_backend = check_backend(backend)
