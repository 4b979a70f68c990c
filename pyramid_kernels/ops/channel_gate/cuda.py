"""CUDA ``channel_gate``: the native calls of csrc/channel_gate, one per direction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.layout import is_channels_last
from .._shared.native import cannot_launch, launch_native, multiprocessors
from .._shared.precision import accumulation
from .op import WIDEST, Layers
from .settings import Settings

#: Warps per multiprocessor that a pass over a map asks for, and the shares of one image's pixels at most, or what gives
#: every multiprocessor a block: each block of the next launch adds them up.
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
    processors = multiprocessors(x.device)
    most = max(PARTS, -(-processors * (THREADS // 32) // max(1, warps)))
    return max(1, min(most, -(-WARPS * processors // max(1, warps)), -(-h * w // least)))


def _part(x: Tensor) -> Tensor:
    """Room for the sums of every share."""
    return torch.empty((x.shape[0], parts(x), x.shape[1]), dtype=accumulation(x), device=x.device)


def forward(
    x: Tensor, layers: Layers, y: Tensor, mean: Tensor, hidden: Tensor, gate: Tensor, settings: Settings
) -> None:
    """Fill ``y`` (N, C, H, W), dense in its memory format, and ``mean`` (N, C), ``hidden`` (N, K), ``gate`` (N, C)."""
    how, part = (settings, is_channels_last(x)), _part(x)
    launch_native("channel_gate_fwd", how, x, list(layers), part, mean, hidden, gate, y)


def backward(
    dy: Tensor, x: Tensor, saved: Sequence[Tensor], layers: Layers, dx: Tensor | None,
    gradients: Sequence[Tensor] | None, settings: Settings,
) -> None:  # fmt: skip
    """Fill ``dx`` and ``gradients``, of weight1, weight2 and all vectors, where given; ``dy`` is dense as y is."""
    dmean, dhidden, dz = map(torch.empty_like, saved)
    part = _part(x)
    dweight1, dweight2, dvectors = gradients or (None, None, None)
    launch_native(
        "channel_gate_bwd", (settings, is_channels_last(x)), x, list(layers), part, *saved, dy, dz, dhidden, dmean,
        dx, dweight1, None if layers[6] is None else dweight2, dvectors,
    )  # fmt: skip
