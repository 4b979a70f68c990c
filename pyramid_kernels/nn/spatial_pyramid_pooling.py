"""SPP-net's pooling of a map of any size to a vector of one length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import functional
from ..backends import Backend, Calls
from ..ops._shared.checks import check_choice, pairs
from ..ops.pyramid_pool.reference import pool_level
from .base import Fused, Unit, check_backend, problems_of, why_not_map


class ReferenceSpatialPyramidPooling(nn.Module):
    """``SpatialPyramidPooling`` in plain PyTorch, every grid its own pooling."""

    def __init__(self, bins: Sequence[int | tuple[int, int]] = (4, 2, 1), *, windows: str = "adaptive") -> None:
        super().__init__()
        check_choice("windows", windows, ("adaptive", "ceil"))
        self.bins, self.windows = pairs("bins", bins), windows

    @property
    def cells(self) -> int:
        """The length of the vector that one channel becomes."""
        return sum(rows * cols for rows, cols in self.bins)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([pool_level(x, level, "max", self.windows).flatten(1) for level in self.bins], 1)


class SpatialPyramidPooling(Fused, ReferenceSpatialPyramidPooling):
    """SPP-net's layer: maxima over every grid of a pyramid, one vector after the other.

    Equivalent to ``cat([adaptive_max_pool2d(x, b).flatten(1) for b in bins], 1)``, with x read once.
    x: (N, C, H, W) -> (N, C * cells) in x's dtype, ``cells`` being those of all grids together: 21 for 4, 2, 1.

    Args:
        bins: one int or (rows, cols) per grid.
        windows: "adaptive" as PyTorch, for maps of any size; "ceil" as in PyTorch ports of SPP-net:
            ``max_pool2d`` whose window and stride are ceil(size / bins), padded by (window * bins - size + 1) // 2.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Raises:
        ValueError: naming the argument; a map on which "ceil" would pad more than half a window (bin 4 on sizes 1, 2,
            3, 5 and 9).

    Source: He et al., Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition, 2014.
    """

    own_chain: ClassVar[bool] = True

    def __init__(
        self, bins: Sequence[int | tuple[int, int]] = (4, 2, 1), *, windows: str = "adaptive", backend: Backend = "auto"
    ) -> None:
        super().__init__(bins, windows=windows)
        self.kernel_backend = check_backend(backend)

    @classmethod
    def units(cls, module: nn.Module) -> list[Unit]:
        return []

    @classmethod
    def like(cls, module: nn.Module) -> Tensor:
        return torch.empty(0)

    @classmethod
    def why_not(cls, module: nn.Module) -> str | None:
        return None

    @classmethod
    def example(cls, module: nn.Module, new: Callable[[int, int], Tensor]) -> Any:
        return new(4, 2)

    def why_not_input(self, x: Any) -> str | None:
        return why_not_map(x)

    def fused_forward(self, x: Tensor) -> Tensor:
        pooled = functional.pyramid_pool(x, self.bins, mode="max", windows=self.windows, backend=self.kernel_backend)
        levels = pooled.split([rows * cols for rows, cols in self.bins], 2)
        return torch.cat([level.flatten(1) for level in levels], 1)

    def problems(self, x: Tensor) -> Calls:
        return problems_of(functional.pyramid_pool, x, self.bins, mode="max", windows=self.windows)
