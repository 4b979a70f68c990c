"""CUDA ``max_pool_pyramid``: fills the native calls of csrc/max_pool_pyramid."""

from __future__ import annotations

from torch import Tensor

from ...backends import Problem
from .._shared.layout import is_channels_last
from .._shared.native import call, cannot_launch, multiprocessors, pointer


def supports(problem: Problem) -> str | None:
    return problem.options[0] or cannot_launch(problem)


def forward(
    x: Tensor, y: Tensor, indices: Tensor | None, kernel_sizes: list[int], cascade: bool, descending: bool
) -> None:
    """Fill ``y`` and, where given, ``indices``."""
    how = [cascade, descending, is_channels_last(x), multiprocessors(x.device)]
    addresses = map(pointer, (x, y, indices))
    call("max_pool_pyramid_fwd", x, [*x.shape, *x.stride()], kernel_sizes, how, *addresses)


def backward(dy: Tensor, indices: Tensor, dx: Tensor, kernel_sizes: list[int], cascade: bool, descending: bool) -> None:
    """Fill ``dx`` from ``dy``, of any strides."""
    how = [cascade, descending, is_channels_last(dx), multiprocessors(dx.device)]
    addresses = map(pointer, (dy, indices, dx))
    call("max_pool_pyramid_bwd", dx, [*dx.shape, *dy.stride()], kernel_sizes, how, *addresses)
