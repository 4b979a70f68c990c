"""PSPNet's head: a pyramid pooling module and what turns its result into class scores."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

from torch import Tensor, nn

from .. import functional
from ..backends import Backend, Calls
from . import structure
from .base import Unit, check_backend, problems_of
from .mixing import HeadForward, Layers, around, mix, run_all
from .ppm import PPM, Level, PPMForward, ReferencePPM, level_maps, level_problems, level_shapes


class ReferencePSPHead(nn.Module):
    """``PSPHead`` in plain PyTorch: ``ppm``, then ``cls``: 3x3, norm, ReLU, channel dropout, 1x1."""

    def __init__(
        self, in_dim: int, classes: int, bins: Sequence[int] = (1, 2, 3, 6), *, hidden_dim: int = 512,
        dropout: float = 0.1, align_corners: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if not bins:
            raise ValueError("bins must not be empty; give at least one bin, such as (1, 2, 3, 6)")
        reduction_dim = in_dim // len(bins)
        self.ppm: nn.Module = ReferencePPM(in_dim, reduction_dim, bins, align_corners=align_corners)
        self.cls = nn.Sequential(
            nn.Conv2d(in_dim + len(bins) * reduction_dim, hidden_dim, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden_dim),
            nn.ReLU(),
            nn.Dropout2d(dropout),
            nn.Conv2d(hidden_dim, classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cls(self.ppm(x))


class Bottleneck(NamedTuple):
    """The levels of a map's pyramid and the convolution over the map and all of them."""

    levels: list[Level]
    unit: Unit
    x_first: bool
    align_corners: bool

    @property
    def units(self) -> list[Unit]:
        return [*(level.unit for level in self.levels), self.unit]

    def __call__(self, x: Tensor, backend: Backend) -> Tensor:
        maps = level_maps(x, self.levels, around(backend))
        maps = [x, *maps] if self.x_first else [*maps, x]
        size = (x.shape[2], x.shape[3])
        return mix(maps, self.unit, size, align_corners=self.align_corners, backend=backend)

    def problems(self, x: Tensor) -> Calls:
        maps = level_shapes(x, self.levels)
        maps = [x, *maps] if self.x_first else [*maps, x]
        size = (x.shape[2], x.shape[3])
        conv = problems_of(
            functional.pyramid_conv, maps, self.unit.conv.weight, size=size, align_corners=self.align_corners
        )
        return [*level_problems(x, self.levels), *conv]

    def why_not(self, conv: str) -> str | None:
        """Why the convolution, whose path is ``conv``, does not fit the levels."""
        joined = self.width + sum(level.unit.conv.out_channels for level in self.levels)
        return why_not_joined(conv, self.unit.conv, joined) or structure.why_not_units(self.units)

    @property
    def width(self) -> int:
        """The channels of x."""
        return self.levels[0].unit.conv.in_channels


def why_not_joined(path: str, conv: nn.Conv2d, channels: int) -> str | None:
    """Why ``conv`` is not one that ``pyramid_conv`` computes over maps of so many channels together."""
    reason = structure.why_not_conv(path, conv, (1, 3))
    if reason is None and conv.kernel_size != (1, 1) and conv.dilation != (1, 1):
        reason = f"{path} has dilation={conv.dilation}, not 1"
    if reason is None and conv.in_channels != channels:
        reason = f"{path} takes {conv.in_channels} channels, and the maps have {channels}"
    return reason


class PSPForward(HeadForward):
    """The fused forward of every class in ``PSPHead``'s layout: ``ppm`` in semseg's, and [conv, norm, ReLU, ...]."""

    @classmethod
    def pyramid(cls, module: Any) -> Bottleneck:
        conv, norm, *_ = module.cls
        return Bottleneck(PPMForward.levels(module.ppm), Unit(conv, norm), True, module.ppm.align_corners)

    @classmethod
    def tail(cls, module: Any) -> Layers:
        """What follows the bottleneck's ReLU."""
        return list(module.cls[3:])

    @classmethod
    def units(cls, module: nn.Module) -> list[Unit]:
        return cls.pyramid(module).units

    @classmethod
    def widths(cls, module: nn.Module) -> list[int]:
        return [cls.pyramid(module).width]

    @classmethod
    def example(cls, module: nn.Module, new: Callable[[int, int], Tensor]) -> Any:
        return new(cls.pyramid(module).width, 4)

    @classmethod
    def why_not(cls, module: nn.Module) -> str | None:
        ppm, layers = module._modules.get("ppm"), module._modules.get("cls")
        if not isinstance(ppm, ReferencePPM) or not isinstance(layers, nn.Sequential):
            return "ppm and cls are not a PPM and a Sequential"
        rest = [nn.Module] * (len(layers) - 3)
        return (
            PPMForward.why_not(ppm)
            or structure.why_not_sequence("cls", layers, nn.Conv2d, nn.Module, nn.ReLU, *rest)
            or cls.pyramid(module).why_not("cls.0")
        )

    def maps(self, x: Any) -> Sequence[Tensor]:
        return [x]

    def fused_forward(self, x: Any) -> Tensor:
        [x] = self.maps(x)
        return run_all(self.tail(self), self.pyramid(self)(x, self.kernel_backend))

    def problems(self, x: Any) -> Calls:
        [x] = self.maps(x)
        return self.pyramid(self).problems(x)


class PSPHead(PSPForward, ReferencePSPHead):
    """PSPNet's head: ``PPM`` with in_dim // len(bins) channels per level, then a 3x3 bottleneck and a classifier.

    The bottleneck mixes every level at the size of its grid: neither the upsampled levels nor the concat is built.
    x: (N, in_dim, H, W) -> class scores (N, classes, H, W) in x's dtype. Keys ``ppm.features.i.{1,2}`` and
    ``cls.{0,1,4}`` as in semseg's PSPNet.

    Args:
        in_dim, hidden_dim, classes: channels of x, of the bottleneck and of the result.
        bins, align_corners, backend: as in ``PPM``.
        dropout: probability of dropping a channel of the bottleneck.

    Raises:
        ValueError: as ``PPM``.

    Source: Zhao et al., Pyramid Scene Parsing Network, 2017; keys of hszhao/semseg.
    """

    def __init__(
        self, in_dim: int, classes: int, bins: Sequence[int] = (1, 2, 3, 6), *, hidden_dim: int = 512,
        dropout: float = 0.1, align_corners: bool = True, backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(in_dim, classes, bins, hidden_dim=hidden_dim, dropout=dropout, align_corners=align_corners)
        self.kernel_backend = check_backend(backend)
        self.ppm.__class__ = PPM
        self.ppm.kernel_backend = around(backend)  # type: ignore[assignment]

    @classmethod
    def from_reference(cls, module: Any, *, align_corners: bool = True, backend: Backend = "auto") -> Self:
        """A copy of ``module``, any head with a PPM as ``ppm`` and the layers after it as ``cls``."""
        layers = getattr(module, "cls", None)
        if not isinstance(layers, nn.Sequential) or not isinstance(getattr(module, "ppm", None), nn.Module):
            raise ValueError(f"module must have ppm and cls, as semseg's PSPNet, got a {type(module).__name__}")
        head = cls(1, 1, (1,), hidden_dim=1, backend=backend)
        head.ppm = PPM.from_reference(module.ppm, align_corners=align_corners, backend=around(backend))
        head.cls = copy.deepcopy(layers)
        head.training = module.training
        structure.check_layout(module, "a head in semseg's layout", head.why_not(head))
        return head

    def to_reference(self) -> nn.Module:
        """A copy in plain PyTorch, with the same parameters' values and ``state_dict`` keys."""
        module: Any = super().to_reference()
        module.ppm = module.ppm.to_reference()
        return module
