"""CUDA ``pyramid_conv``: the native calls of csrc/pyramid_conv."""

from __future__ import annotations

from torch import Tensor

from ...backends import Problem
from .._shared.layout import is_channels_last
from .._shared.native import cannot_launch, launch_native
from .._shared.precision import conv_precision
from .dense import Operand
from .layout import LEVELS
from .settings import Settings

#: Levels of one merge, which is rounded once and so is one launch.
MERGED = 16


def supports(problem: Problem) -> str | None:
    _, count = problem.options
    if count > MERGED:
        return f"at most {MERGED} maps, got {count}"
    return cannot_launch(problem)


def merge(
    base: Tensor | None, operand: Operand | None, levels: list[Tensor], bias: Tensor | None, scale: Tensor | None,
    shift: Tensor | None, y: Tensor, z: Tensor | None, k: int, settings: Settings,
) -> None:  # fmt: skip
    """Fill ``y`` (N, O, H, W), dense, and ``z``, the value before the affine: base or the product of the operand, a map
    and its (O, C), and (N, k*k*O, h, w) levels."""
    head = settings, is_channels_last(y), k, conv_precision(y.dtype) == "tf32"
    launch_native("pyramid_conv_merge", head, base, *(operand or (None, None)), levels, bias, scale, shift, y, z)


def backward_levels(dz: Tensor, dlevels: list[Tensor], k: int, settings: Settings) -> None:
    """Fill ``dlevels`` (N, k*k*O, h, w) from ``dz`` (N, O, H, W), dense."""
    for start in range(0, len(dlevels), LEVELS):
        head = settings, is_channels_last(dz), k
        launch_native("pyramid_conv_bwd_dlevels", head, dz, dlevels[start : start + LEVELS])
