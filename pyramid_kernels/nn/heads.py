"""Heads: a pyramid module and what turns its result into class scores."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor, nn

from .base import check_backend
from .ppm import PPM, ReferencePPM


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


class PSPHead(ReferencePSPHead):
    """PSPNet's head: ``PPM`` with in_dim // len(bins) channels per level, then a 3x3 bottleneck and a classifier.

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
        dropout: float = 0.1, align_corners: bool = True, backend: str = "auto",
    ) -> None:  # fmt: skip
        super().__init__(in_dim, classes, bins, hidden_dim=hidden_dim, dropout=dropout, align_corners=align_corners)
        self.ppm.__class__ = PPM
        self.ppm.kernel_backend = check_backend(backend)  # type: ignore[assignment]

    @classmethod
    def from_reference(cls, module: Any, *, align_corners: bool = True, backend: str = "auto") -> Self:
        """A copy of ``module``, any head with a PPM as ``ppm`` and the layers after it as ``cls``."""
        layers = getattr(module, "cls", None)
        if not isinstance(layers, nn.Sequential) or not isinstance(getattr(module, "ppm", None), nn.Module):
            raise ValueError(f"module must have ppm and cls, as semseg's PSPNet, got a {type(module).__name__}")
        head = cls(1, 1, (1,), hidden_dim=1)
        head.ppm = PPM.from_reference(module.ppm, align_corners=align_corners, backend=backend)
        head.cls = copy.deepcopy(layers)
        head.training = module.training
        return head

    def to_reference(self) -> nn.Module:
        """A copy in plain PyTorch, with the same parameters' values and ``state_dict`` keys."""
        module: Any = copy.deepcopy(self)
        module.__class__ = ReferencePSPHead
        module.ppm = module.ppm.to_reference()
        return module
