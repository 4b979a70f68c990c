"""SPEED's pyramids: depthwise-separable convolutions of pooled maps (DSPP), and those mixed in pairs (MDSPP)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import functional
from ..backends import Backend, Calls
from ..ops._shared.checks import check_length, pairs
from ..ops.pyramid_pool.reference import pool_level
from ..ops.upsample_merge.reference import resize
from . import structure
from .aspp import separable
from .base import Fused, Unit, check_backend, problems_of


class _Levels(nn.Module):
    """A separable convolution per grid."""

    def __init__(self, in_channels: int, out_channels: int, bins: Sequence[int | tuple[int, int]], bias: bool) -> None:
        super().__init__()
        self.bins = pairs("bins", bins)
        self.levels = nn.ModuleList(separable(in_channels, out_channels, bias=bias) for _ in self.bins)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Every level at x's size."""
        size = (x.shape[2], x.shape[3])
        cells = [pool_level(x, level, "avg", "fixed") for level in self.bins]
        return [resize(m(z), size, "bilinear", False) for m, z in zip(self.levels, cells, strict=True)]


class ReferenceDSPP(_Levels):
    """``DSPP`` in plain PyTorch: the same parameters and ``state_dict`` keys."""

    def __init__(
        self, in_channels: int, filters: int = 128, bins: Sequence[int | tuple[int, int]] = (2, 4, 6, 8)
    ) -> None:
        super().__init__(in_channels, filters, bins, True)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, *self.maps(x)], 1)


class ReferenceMDSPP(_Levels):
    """``MDSPP`` in plain PyTorch: the same parameters and ``state_dict`` keys."""

    def __init__(self, in_channels: int, filters: int, bins: Sequence[int | tuple[int, int]] = (2, 4, 6, 8)) -> None:
        check_length("bins", bins, 4, "level")
        if filters < 4 or filters % 4:
            raise ValueError(f"filters must be a positive multiple of 4, got {filters}")
        super().__init__(in_channels, filters // 4, bins, False)
        self.pairs = nn.ModuleList(separable(filters // 2, filters // 2, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third, fourth = self.maps(x)
        return self.join(torch.cat([first, third], 1), torch.cat([second, fourth], 1), x)

    def join(self, odd: Tensor, even: Tensor, x: Tensor) -> Tensor:
        """Levels 1 and 3, levels 2 and 4, each pair mixed by its own convolution, then x."""
        mixed = [torch.relu(pair(torch.relu(y))) for pair, y in zip(self.pairs, (odd, even), strict=True)]
        return torch.cat([*mixed, x], 1)


class LevelsForward(Fused):
    """The fused forward's part that DSPP and MDSPP share."""

    own_chain: ClassVar[bool] = True
    helpers: ClassVar[tuple[str, ...]] = ("maps",)

    @classmethod
    def units(cls, module: Any) -> list[Unit]:
        return [Unit(pointwise, nn.Identity(), depthwise) for depthwise, pointwise in module.levels]

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        for i, level in enumerate(module.levels):
            if reason := structure.why_not_sequence(f"levels.{i}", level, nn.Conv2d, nn.Conv2d):
                return reason
        units = cls.units(module)
        levels = (_why_not_level(f"levels.{i}", unit) for i, unit in enumerate(units))
        return next(filter(None, levels), None) or structure.why_not_units(units)

    @classmethod
    def example(cls, module: nn.Module, new: Callable[[int, int], Tensor]) -> Any:
        return new(cls.units(module)[0].conv.in_channels, 1)  # no bin may be larger than the map

    def pyramid(self, x: Tensor, order: Sequence[int], include_input: bool) -> Tensor:
        """The levels in ``order``, behind x if it is included."""
        return functional.separable_pyramid(
            x, *self._arguments(order), include_input=include_input, backend=self.kernel_backend
        )

    def problems(self, x: Tensor) -> Calls:
        return problems_of(functional.separable_pyramid, x, *self._arguments(range(len(self.units(self)))))

    def _arguments(self, order: Sequence[int]) -> tuple[Any, ...]:
        module: Any = self
        units = self.units(self)
        depthwise, pointwise = ([getattr(unit, name).weight for unit in units] for name in ("depthwise", "conv"))
        bias = [unit.conv.bias for unit in units]
        return tuple([values[i] for i in order] for values in (module.bins, depthwise, pointwise, bias))


def _why_not_level(path: str, unit: Any) -> str | None:
    """Why ``unit`` is not the separable convolution that the op takes, whose depthwise step has weights alone."""
    reason = structure.why_not_branch(path, unit)
    if reason is None and unit.depthwise.dilation != (1, 1):
        reason = f"{path}.0 has dilation={unit.depthwise.dilation}, not 1"
    if reason is None and unit.depthwise.bias is not None:
        reason = f"{path}.0 has a bias"
    return reason


class DSPP(LevelsForward, ReferenceDSPP):
    """SPEED's depthwise separable pyramid pooling.

    Equivalent to ``cat([x, *[resize(level(avg_pool2d(x, window))) for each bin]], 1)``: window and stride are
    (H // bin, W // bin) as in Keras, so the grid may be larger than the bin; ``level`` is a depthwise 3x3 and a 1x1
    with bias; the resize is bilinear at half pixels. x: (N, C, H, W) -> (N, C + len(bins) * filters, H, W) in x's dtype
    and memory format; under autocast in its dtype, where the plain form gives the wider one of x and of the levels.

    Args:
        in_channels: C.
        filters: channels of each level.
        bins: one int or (rows, cols) per level.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Raises:
        ValueError: naming the argument; a map smaller than a bin, whose window would be 0, names bin and size.

    Source: Papa et al., SPEED: Separable Pyramidal Pooling EncodEr-Decoder, 2022.
    """

    def __init__(
        self, in_channels: int, filters: int = 128, bins: Sequence[int | tuple[int, int]] = (2, 4, 6, 8), *,
        backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(in_channels, filters, bins)
        self.kernel_backend = check_backend(backend)

    def fused_forward(self, x: Tensor) -> Tensor:
        return self.pyramid(x, range(len(self.bins)), True)


class MDSPP(LevelsForward, ReferenceMDSPP):
    """SPEED's mixed pyramid: ``DSPP`` without biases, whose levels 1 and 3, and 2 and 4, are convolved together.

    Equivalent to ``cat([relu(pair(relu(cat([y1, y3], 1)))), relu(pair(relu(cat([y2, y4], 1)))), x], 1)``, y being the
    levels of ``DSPP`` with filters // 4 channels, ``pair`` a separable 3x3 to filters // 2.
    x: (N, C, H, W) -> (N, filters + C, H, W) in x's dtype and memory format.

    Args:
        in_channels: C.
        filters: channels of both pairs together, a multiple of 4.
        bins: four ints or (rows, cols).
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Raises:
        ValueError: naming the argument; a map smaller than a bin, whose window would be 0, names bin and size.

    Source: Papa et al., SPEED: Separable Pyramidal Pooling EncodEr-Decoder, 2022.
    """

    helpers: ClassVar[tuple[str, ...]] = ("maps", "join")

    def __init__(
        self, in_channels: int, filters: int, bins: Sequence[int | tuple[int, int]] = (2, 4, 6, 8), *,
        backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(in_channels, filters, bins)
        self.kernel_backend = check_backend(backend)

    def fused_forward(self, x: Tensor) -> Tensor:
        # In this order each pair is a slice of channels: nothing is concatenated between.
        odd, even = self.pyramid(x, (0, 2, 1, 3), False).chunk(2, 1)
        return self.join(odd, even, x)
