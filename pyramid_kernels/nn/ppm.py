"""PSPNet's pyramid pooling module, with the parameters and keys of its PyTorch original (semseg)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from ..backends import Backend, Calls, automatic
from . import structure
from .base import Fused, Unit, check_backend, problems_of
from .norm import as_eval, uses_batch


class ReferencePPM(nn.Module):
    """``PPM`` in plain PyTorch: the same parameters and ``state_dict`` keys, every step its own module call."""

    def __init__(
        self, in_dim: int, reduction_dim: int, bins: Sequence[int] = (1, 2, 3, 6), *, align_corners: bool = True
    ) -> None:
        super().__init__()
        self.features = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(b),
                nn.Conv2d(in_dim, reduction_dim, 1, bias=False),
                nn.BatchNorm2d(reduction_dim),
                nn.ReLU(),
            )
            for b in bins
        )
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        size, corners = x.shape[2:], self.align_corners
        levels = [F.interpolate(f(x), size=size, mode="bilinear", align_corners=corners) for f in self.features]
        return torch.cat([x, *levels], 1)


class Level(NamedTuple):
    """One grid of the pyramid: its pooling, then a 1x1, norm and ReLU on the cells."""

    pool: nn.AdaptiveAvgPool2d
    unit: Unit

    @property
    def grid(self) -> tuple[int, int]:
        size: Any = self.pool.output_size
        return size if isinstance(size, tuple) else (size, size)


class PPMForward(Fused):
    """The fused forward of every class in semseg's layout: x first, then ``features.i``: [pool, 1x1, norm, ReLU]."""

    #: Whether x precedes the levels in the result.
    x_first: bool = True
    align_corners: bool = True
    calls_norms: ClassVar[bool] = True

    @classmethod
    def levels(cls, module: Any) -> list[Level]:
        """Where the layers are: all that a class with other names for them has to override."""
        return [Level(pool, Unit(conv, norm)) for pool, conv, norm, _ in module.features]

    @classmethod
    def units(cls, module: nn.Module) -> list[Unit]:
        return [level.unit for level in cls.levels(module)]

    @classmethod
    def why_not(cls, module: nn.Module) -> str | None:
        if cls.levels.__func__ is PPMForward.levels.__func__:  # type: ignore[attr-defined]
            return cls.why_not_layout(module) or cls.why_not_levels(module)
        try:
            levels = cls.levels(module)
            rest = structure.why_not_rest(module, cls.units(module), [level.pool for level in levels])
            return cls.why_not_levels(module) or rest
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            return f"{cls.__name__}.levels does not find its layers: {error}"

    @classmethod
    def why_not_layout(cls, module: nn.Module) -> str | None:
        """Why ``module`` does not have semseg's layout."""
        features = module._modules.get("features")
        if not isinstance(features, nn.ModuleList) or not len(features):
            return "features is not a ModuleList of levels"
        for i, level in enumerate(features):
            kinds = (nn.AdaptiveAvgPool2d, nn.Conv2d, nn.Module, nn.ReLU)
            if reason := structure.why_not_sequence(f"features.{i}", level, *kinds):
                return reason
        return None

    @classmethod
    def why_not_levels(cls, module: nn.Module) -> str | None:
        """Why attributes of the levels, already known to be there, are not what ``fused_forward`` assumes."""
        return why_not_grids(cls.levels(module)) or structure.why_not_units(cls.units(module))

    def why_not_call(self, x: Tensor) -> str | None:
        reason = super().why_not_call(x)
        if reason is None and x.device.type == "cpu" and automatic(self.kernel_backend):
            # Measured on one core, in both layouts, in inference and training.
            if x.numel() < 1 << 20:
                return "on a CPU the unfused chain is faster on small maps"
        return reason

    def fused_forward(self, x: Tensor) -> Tensor:
        maps = level_maps(x, self.levels(self), self.kernel_backend)
        return functional.upsample_merge(
            [x, *maps] if self.x_first else [*maps, x],
            (x.shape[2], x.shape[3]),
            align_corners=self.align_corners,
            backend=self.kernel_backend,
        )

    def problems(self, x: Tensor) -> Calls:
        levels = self.levels(self)
        maps = [x, *level_shapes(x, levels)]
        merge = problems_of(functional.upsample_merge, maps, align_corners=self.align_corners)
        return [*level_problems(x, levels), *merge]


def why_not_levels(path: str, levels: Any, why_not_block: Callable[[str, Any], str | None]) -> str | None:
    """Why ``levels``, whose path is ``path``, is not a ModuleList of [pooling, block]."""
    if not isinstance(levels, nn.ModuleList) or not len(levels):
        return f"{path} is not a ModuleList of levels"
    level: Any
    for i, level in enumerate(levels):
        reason = structure.why_not_sequence(f"{path}.{i}", level, nn.AdaptiveAvgPool2d, nn.Module)
        if reason := reason or why_not_block(f"{path}.{i}.1", level[1]):
            return reason
    return None


def why_not_grids(levels: Sequence[Level]) -> str | None:
    """Why a level does not pool to a fixed grid and project it by a plain 1x1."""
    for i, level in enumerate(levels):
        if None in level.grid:
            return f"level {i} pools to {level.pool.output_size}, which is not a fixed grid"
        if reason := structure.why_not_conv(f"the convolution of level {i}", level.unit.conv):
            return reason
    return None


def level_maps(x: Tensor, levels: Sequence[Level], backend: Backend) -> list[Tensor]:
    """Every level of ``x`` at the size of its grid: pooled, projected, each norm by its own mode, ReLU."""
    units = [level.unit for level in levels]
    grids = [level.grid for level in levels]
    weights = [unit.conv.weight for unit in units]
    pooled = functional.pyramid_pool(x, grids, backend=backend)
    if any(uses_batch(unit.norm) for unit in units):
        shift = [unit.conv.bias for unit in units]
        packed = functional.pyramid_project(pooled, grids, weights, shift=shift, backend=backend)
    else:
        norm = [as_eval(unit.norm, unit.conv) for unit in units]
        packed = functional.pyramid_project(pooled, grids, weights, norm=norm, activation="relu", backend=backend)
    maps = functional.pyramid_levels(packed, grids, [len(w) for w in weights])
    if any(uses_batch(unit.norm) for unit in units):
        maps = [torch.relu(unit.norm(z)) for unit, z in zip(units, maps, strict=True)]
    return list(maps)


def level_shapes(x: Tensor, levels: Sequence[Level]) -> list[Tensor]:
    """Empty maps in the place of those that ``level_maps`` gives."""
    return [x.new_empty((len(x), level.unit.conv.out_channels, *level.grid)) for level in levels]


def level_problems(x: Tensor, levels: Sequence[Level]) -> Calls:
    """The ops that ``level_maps`` calls on ``x``."""
    grids = [level.grid for level in levels]
    pooled = x.new_empty((len(x), x.shape[1], sum(rows * cols for rows, cols in grids)))
    weights = [level.unit.conv.weight for level in levels]
    project = problems_of(functional.pyramid_project, pooled, grids, weights)
    return [*problems_of(functional.pyramid_pool, x, grids), *project]


class PPM(PPMForward, ReferencePPM):
    """Pyramid pooling module: x beside its averages over every grid, each projected by a 1x1 and upsampled.

    Equivalent to ``cat([x, *(interpolate(relu(bn(conv(adaptive_avg_pool2d(x, b)))), size) for b in bins)], 1)``.
    x: (N, in_dim, H, W) -> (N, in_dim + len(bins) * reduction_dim, H, W) in x's dtype and memory format.

    Args:
        in_dim, reduction_dim: channels of x, and of every level after its 1x1.
        bins: one int or (rows, cols) per level.
        align_corners: of the bilinear upsampling; True in semseg and segmentation_models_pytorch.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Raises:
        ValueError: naming the argument; "Expected more than 1 value per channel when training" as PyTorch.

    Source: Zhao et al., Pyramid Scene Parsing Network, 2017; keys of hszhao/semseg.
    """

    def __init__(
        self, in_dim: int, reduction_dim: int, bins: Sequence[int] = (1, 2, 3, 6), *, align_corners: bool = True,
        backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(in_dim, reduction_dim, bins, align_corners=align_corners)
        self.kernel_backend = check_backend(backend)

    @classmethod
    def from_reference(cls, module: nn.Module, *, align_corners: bool = True, backend: Backend = "auto") -> Self:
        """A copy of ``module``, any PPM with x first and levels under ``features`` (semseg's, this one's)."""
        structure.check_layout(module, "a PPM in semseg's layout", PPMForward.why_not(module))
        ppm = cls(1, 1, (), align_corners=getattr(module, "align_corners", align_corners), backend=backend)
        ppm.features = copy.deepcopy(module.features)  # type: ignore[assignment]
        ppm.training = module.training
        return ppm
