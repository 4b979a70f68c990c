"""CUDA ``pyramid_conv``: fills the native calls of csrc/pyramid_conv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...backends import Problem
from .._shared.layout import is_channels_last
from .._shared.native import call, cannot_launch, pointer, vector
from .._shared.precision import conv_precision
from ..upsample_merge.cuda import HOW
from .dense import Operand
from .layout import LEVELS

#: Levels of one merge, which is rounded once and so is one launch.
MERGED = 16


def supports(problem: Problem) -> str | None:
    _, count = problem.options
    if count > MERGED:
        return f"at most {MERGED} maps, got {count}"
    return cannot_launch(problem)


def _problem(full: Tensor, levels: Sequence[Tensor], k: int, mode: str, align_corners: bool) -> tuple[Any, ...]:
    """The output's shape and format, how levels are resized, the taps along an axis, and every level."""
    rows = [[v.data_ptr(), *v.shape[2:], *v.stride()] for v in levels]
    return list(full.shape), is_channels_last(full), HOW[mode, align_corners], k, rows


def _operand(x: Tensor, weight: Tensor) -> list[int]:
    """A map and its weight: addresses and strides, channels, whether float32 products are in TF32."""
    tf32 = conv_precision(x.dtype) == "tf32"
    return [x.data_ptr(), *x.stride(), x.shape[1], weight.data_ptr(), *weight.stride(), tf32]


def merge(
    base: Tensor | None, operand: Operand | None, levels: list[Tensor], bias: Tensor | None, scale: Tensor | None,
    shift: Tensor | None, y: Tensor, z: Tensor | None, k: int, mode: str, align_corners: bool, relu: bool,
) -> None:  # fmt: skip
    """Fill ``y`` (N, O, H, W), dense, and ``z``, the value before the affine: base or the product of the operand, a map
    and its (O, C), and (N, k*k*O, h, w) levels."""
    vectors = [part for v in (bias, scale, shift) for part in vector(v, y)]
    problem = _problem(y, levels, k, mode, align_corners)
    inside = [] if operand is None else _operand(*operand)
    call("pyramid_conv_merge", y, *problem, inside, pointer(base), *vectors, relu, y.data_ptr(), pointer(z))


def backward_levels(dz: Tensor, dlevels: list[Tensor], k: int, mode: str, align_corners: bool) -> None:
    """Fill ``dlevels`` (N, k*k*O, h, w) from ``dz`` (N, O, H, W), dense."""
    for start in range(0, len(dlevels), LEVELS):
        problem = _problem(dz, dlevels[start : start + LEVELS], k, mode, align_corners)
        call("pyramid_conv_bwd_dlevels", dz, *problem, dz.data_ptr())
