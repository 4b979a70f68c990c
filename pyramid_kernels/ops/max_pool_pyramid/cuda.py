"""CUDA ``max_pool_pyramid``: the native calls of csrc/max_pool_pyramid."""

from __future__ import annotations

from torch import Tensor

from ...backends import Problem
from .._shared.layout import is_channels_last
from .._shared.native import cannot_launch, launch_native, multiprocessors
from .settings import Settings


def supports(problem: Problem) -> str | None:
    return problem.options[0] or cannot_launch(problem)


def forward(x: Tensor, y: Tensor, indices: Tensor | None, settings: Settings) -> None:
    """Fill ``y`` and, where given, ``indices``."""
    launch_native("max_pool_pyramid_fwd", (settings, is_channels_last(x), multiprocessors(x.device)), x, y, indices)


def backward(dy: Tensor, indices: Tensor, dx: Tensor, settings: Settings) -> None:
    """Fill ``dx`` from ``dy``, of any strides."""
    launch_native("max_pool_pyramid_bwd", (settings, is_channels_last(dx), multiprocessors(dx.device)), dy, indices, dx)
