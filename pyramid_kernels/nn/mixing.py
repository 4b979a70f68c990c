"""What heads share: maps of several sizes in, one convolution over all of them, and an ordinary tail behind it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import functional
from ..backends import Backend, Op, automatic
from ..ops._shared.constants import derived
from .base import Fused, Unit, why_not_chain, why_not_map
from .norm import as_affine, uses_batch

Size = tuple[int, int]
#: Called one after the other, as they stand.
Layers = Sequence[Callable[[Tensor], Tensor]]


class HeadForward(Fused):
    """A forward whose costly step is ``pyramid_conv``. ``maps`` and ``widths`` say which maps it reads."""

    # Its convolutions are PyTorch's, in whatever memory format the maps have.
    calls_norms: ClassVar[bool] = True

    @classmethod
    def widths(cls, module: nn.Module) -> list[int]:
        """The channels of every map that the head reads."""
        raise NotImplementedError

    @classmethod
    def example(cls, module: nn.Module, new: Callable[[int, int], Tensor]) -> Any:
        return [new(width, 4 << i) for i, width in enumerate(cls.widths(module))]

    def maps(self, x: Any) -> Sequence[Tensor]:
        """The maps that the head reads of ``x``, in the order of ``widths``; none where ``x`` is no list."""
        return x if isinstance(x, list | tuple) else ()

    def why_not_input(self, x: Any) -> str | None:
        maps, widths = self.maps(x), self.widths(self)
        if len(maps) != len(widths):
            return f"the input is not a list of {len(widths)} maps"
        conv = self.units(self)[0].conv
        if reason := next(filter(None, (why_not_map(m, conv) for m in maps)), None):
            return reason
        if not self.fits([m.shape[1] for m in maps]):
            return f"the maps have {', '.join(str(m.shape[1]) for m in maps)} channels"
        first = maps[0]
        if any(len(m) != len(first) or m.dtype != first.dtype or m.device != first.device for m in maps):
            return "the maps differ in batch, dtype or device"
        return None

    def fits(self, channels: Sequence[int]) -> bool:
        """Whether maps of so many channels are what the head's layers take."""
        return list(channels) == list(self.widths(self))

    def why_not_call(self, x: Any) -> str | None:
        reason = super().why_not_call(x)
        return self.why_slower(x) if reason is None and automatic(self.kernel_backend) else reason

    def why_slower(self, x: Any) -> str | None:
        """Why the original forward is the faster one: the op's unfused chain does its work less well."""
        calls = [call for call in self.problems(x) if call[0].name == "pyramid_conv"]
        return why_not_chain(calls, self.kernel_backend)

    def backend_of(self, op: Op) -> Backend:
        return self.kernel_backend if op.name == "pyramid_conv" else around(self.kernel_backend)


def around(backend: Backend) -> Backend:
    """The backend of the steps around ``pyramid_conv``, most of which have no composed form."""
    return "reference" if backend == "composed" else backend


def mix(
    maps: Sequence[Tensor], unit: Unit, size: Size, *, align_corners: bool, backend: Backend,
    weight: Tensor | None = None, bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """ReLU of the norm, by its own mode, of the unit's convolution of all maps at ``size``.

    ``weight`` and ``bias`` stand for the convolution's own.
    """
    if weight is None:
        weight, bias = unit.conv.weight, unit.conv.bias
    if uses_batch(unit.norm):
        y = functional.pyramid_conv(maps, weight, bias, size=size, align_corners=align_corners, backend=backend)
        return torch.relu(unit.norm(y))
    scale, shift = derived(as_affine, unit.norm)
    return functional.pyramid_conv(
        maps, weight, bias, size=size, align_corners=align_corners, scale=scale, shift=shift, activation="relu",
        backend=backend,
    )  # fmt: skip


def run_all(layers: Layers, y: Tensor) -> Tensor:
    """``y`` through every layer."""
    for layer in layers:
        y = layer(y)
    return y


def first_conv(module: nn.Module) -> nn.Conv2d:
    """The convolution that meets the input of ``module``, where that is the first one in it."""
    return next(m for m in module.modules() if isinstance(m, nn.Conv2d))


def out_channels(module: nn.Module) -> int:
    """The channels of what ``module`` gives, if its last convolution gives it; 0 where it has none."""
    return [0, *(m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d))][-1]


def copy_layers(target: nn.Module, source: nn.Module) -> None:
    """Put a copy of the layer that ``source`` has at the same path in the place of every one of ``target``.

    Raises AttributeError where a path is missing.
    """
    for path, module in list(target.named_modules()):
        if path and not module._modules:
            parent, _, name = path.rpartition(".")
            setattr(target.get_submodule(parent), name, copy.deepcopy(source.get_submodule(path)))
        else:
            module.training = source.get_submodule(path).training
