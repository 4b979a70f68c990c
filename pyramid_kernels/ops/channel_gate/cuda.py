"""CUDA ``channel_gate``: fills the native calls of csrc/channel_gate, one per direction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.layout import is_channels_last
from .._shared.native import call, cannot_launch, multiprocessors, pointer, vector
from .._shared.precision import accumulation
from .op import WIDEST, Layers

#: Warps per multiprocessor that a pass over a map asks for, and the shares of one image's pixels at most: the next
#: launch adds them up one by one.
WARPS, PARTS = 32, 64
#: Threads of a block, and vectors of 16 bytes that a thread should find in its share (csrc/channel_gate/strip.cuh).
THREADS, DEEP = 256, 4


def supports(problem: Problem) -> str | None:
    wide, _ = problem.options
    return f"at most {WIDEST} channels and hidden values together" if wide else cannot_launch(problem)


def parts(x: Tensor) -> int:
    """Shares of an image's pixels: enough to fill the GPU, none too small to keep a thread busy."""
    n, c, h, w = x.shape
    elements = 16 // x.element_size()
    vectors = -(-c // elements)
    if is_channels_last(x):
        width = min(32, 1 << (vectors - 1).bit_length())
        warps, least = n * -(-vectors // width) * (THREADS // 32), DEEP * THREADS // width
    else:
        warps, least = n * c, DEEP * 32 * elements
    return max(1, min(PARTS, -(-WARPS * multiprocessors(x.device) // max(1, warps)), -(-h * w // least)))


def _problem(x: Tensor, layers: Layers, relu: bool, residual: bool) -> tuple[list[Any], Tensor]:
    """What both native calls begin with, and the sums per share that it names."""
    weight1, bias1, scale1, shift1, weight2, bias2 = layers
    assert weight1 is not None
    part = torch.empty((x.shape[0], parts(x), x.shape[1]), dtype=accumulation(x), device=x.device)
    sizes = [*x.shape, weight1.shape[0], is_channels_last(x), relu, residual, part.shape[1]]
    vectors = [[*vector(t, x)] for t in (bias1, scale1, shift1, bias2)]
    rows = [_matrix(weight1), *vectors[:3], _matrix(weight2), vectors[3]]
    return [sizes, rows, [x.data_ptr(), *x.stride()], part.data_ptr()], part


def _matrix(weight: Tensor | None) -> list[int]:
    return [0, 0, 0] if weight is None else [weight.data_ptr(), weight.stride(0), weight.stride(1)]


def forward(
    x: Tensor, layers: Layers, relu: bool, residual: bool, y: Tensor, mean: Tensor, hidden: Tensor, gate: Tensor
) -> None:
    """Fill ``y`` (N, C, H, W), dense in its memory format, and ``mean`` (N, C), ``hidden`` (N, K), ``gate`` (N, C)."""
    problem, _part = _problem(x, layers, relu, residual)
    call("channel_gate_fwd", x, *problem, *map(pointer, (mean, hidden, gate, y)))


def backward(
    dy: Tensor, x: Tensor, saved: tuple[Tensor, Tensor, Tensor], layers: Layers, relu: bool, residual: bool,
    dx: Tensor | None, gradients: tuple[Tensor, Tensor, Tensor] | None,
) -> None:  # fmt: skip
    """Fill ``dx`` and ``gradients``, of weight1, weight2 and all vectors, where given; ``dy`` is dense as y is."""
    problem, _part = _problem(x, layers, relu, residual)
    mean, hidden, gate = saved
    dz, dhidden, dmean = torch.empty_like(gate), torch.empty_like(hidden), torch.empty_like(mean)
    dweight1, dweight2, dvectors = gradients or (None, None, None)
    call(
        "channel_gate_bwd", x, *problem, *map(pointer, (mean, hidden, gate, dy, dz, dhidden, dmean, dx)),
        _matrix(dweight1), _matrix(None if layers[4] is None else dweight2), pointer(dvectors),
    )  # fmt: skip
