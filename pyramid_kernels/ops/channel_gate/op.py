"""``channel_gate``: a map times a gate per channel, computed from its own means; what ARM, FFM and SE blocks end in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...backends import Backend, Calls, Op, describe, select
from ...registration import OpFunction, public, register_op
from .._shared.affine import Norm, check_norm, dense_vectors
from .._shared.autocast import autocast
from .._shared.checks import check_choice, check_floating, check_like, check_map, check_vector
from .._shared.layout import as_map, empty_map, is_channels_last
from .._shared.precision import accumulation
from . import composed, reference
from .settings import Settings

OP = Op("channel_gate", "memory", reference, composed)

#: C + K up to which a block of the CUDA kernels keeps one image's means and hidden values in shared memory.
WIDEST = 8192

HIDDEN_ACTIVATIONS, GATE_ACTIVATIONS = (None, "relu", "silu"), ("sigmoid", "hardsigmoid")

#: weight1, bias1, scale1, shift1, mean1, var1, weight2, bias2, as kernels take them.
Layers = Sequence[Tensor | None]


def _problems(x: Tensor, weight1: Tensor, *_args: Any, residual: bool = False, **_: Any) -> Calls:
    x, *_casts = autocast(x)
    # Traced, the comparison is no bool.
    wide = True if x.shape[1] + weight1.shape[0] > WIDEST else False
    return [(OP, describe(x, is_channels_last(x), wide, residual), tuple(x.shape))]


@public(_problems)
def channel_gate(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None = None,
    weight2: Tensor | None = None,
    bias2: Tensor | None = None,
    *,
    scale1: Tensor | None = None,
    shift1: Tensor | None = None,
    norm1: Norm | None = None,
    hidden_activation: str | None = None,
    gate_activation: str = "sigmoid",
    residual: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Weigh the channels of ``x`` by a gate that its own means decide; x is read twice and written once.

    Equivalent to ``g = conv2d(x.mean((2, 3), keepdim=True), weight1, bias1)``, ``g = activation(g * scale1 + shift1)``,
    ``g = conv2d(g, weight2, bias2)`` if there is a weight2, then ``x * sigmoid(g)``, plus x if ``residual``.

    Args:
        x: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32 or float64.
        weight1: (K, C) or (K, C, 1, 1) in x's dtype; K is C unless there is a weight2.
        bias1: (K,) or None, float32 or x's dtype.
        weight2, bias2: (C, K) or (C, K, 1, 1), and (C,), or None.
        scale1, shift1: (K,) each or None, float32 or x's dtype, behind the first convolution.
        norm1: in their place an eval-mode BatchNorm: (gamma, beta, mean, var, eps), likewise, gamma and beta or None;
            mean and var get no gradient.
        hidden_activation: None, "relu" or "silu", behind these.
        gate_activation: "sigmoid", or "hardsigmoid" as in MobileNetV3.
        residual: add x: ``x * (1 + gate)``.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Returns:
        (N, C, H, W) in x's dtype (the autocast dtype under autocast) and memory format. Kernels keep means and gates in
        float32 (float64 for float64).

    Raises:
        TypeError, ValueError: naming the argument. BackendError: a named backend cannot run.

    Source: Hu et al., Squeeze-and-Excitation Networks, 2018; Yu et al., BiSeNet, 2018 (ARM, FFM); Howard et al.,
    Searching for MobileNetV3, 2019; Tan and Le, EfficientNet, 2019 (SiLU).
    """
    check_map("x", x)
    check_floating("weight1", weight1)
    for name, t in (("bias1", bias1), ("weight2", weight2), ("bias2", bias2)):
        if t is not None:
            check_floating(name, t)
    x, weight1, bias1, weight2, bias2 = autocast(x, weight1, bias1, weight2, bias2)
    _check_weights(x, weight1, weight2)
    hidden, c = weight1.shape[0], x.shape[1]
    if bias2 is not None and weight2 is None:
        raise ValueError("bias2 must be None without weight2, got a tensor; give weight2 as well")
    named = {"bias1": (bias1, hidden), "bias2": (bias2, c), "scale1": (scale1, hidden), "shift1": (shift1, hidden)}
    for name, (vector, length) in named.items():
        if vector is not None:
            check_vector(name, vector, length, x)
    if norm1 is not None:
        if scale1 is not None or shift1 is not None:
            raise ValueError("norm1 must not be given together with scale1 or shift1; give one form or the other")
        check_norm("norm1", norm1, weight1, x)
    affine, eps = ((scale1, shift1, None, None), 0.0) if norm1 is None else (norm1[:4], float(norm1[4]))
    check_choice("hidden_activation", hidden_activation, HIDDEN_ACTIVATIONS)
    check_choice("gate_activation", gate_activation, GATE_ACTIVATIONS)
    backend = select(*_problems(x, weight1, residual=residual)[0], backend)
    layers = (weight1, *dense_vectors(bias1, *affine), weight2, *dense_vectors(bias2))
    settings = Settings(hidden_activation or "none", gate_activation == "hardsigmoid", residual, eps)
    if backend in ("reference", "composed"):
        return OP.python(backend)(x, layers, settings)
    return ChannelGate.run(x, *layers, settings, backend)[0]


def _check_weights(x: Tensor, weight1: Tensor, weight2: Tensor | None) -> None:
    c = x.shape[1]
    k = weight1.shape[0] if weight1.dim() else 0
    if weight2 is None:
        _check_weight("weight1", weight1, x, (c, c), "(C, C) without weight2")
        return
    _check_weight("weight1", weight1, x, (k, c), "(K, C)")
    _check_weight("weight2", weight2, x, (c, k), "(C, K) with weight1's K")


def _check_weight(name: str, weight: Tensor, x: Tensor, shape: tuple[int, int], what: str) -> None:
    check_like(name, weight, "x", x)
    if weight.dim() not in (2, 4) or tuple(weight.shape) not in (shape, (*shape, 1, 1)) or 0 in shape:
        raise ValueError(
            f"{name} must be {what}, here {shape} or {(*shape, 1, 1)}, got {tuple(weight.shape)} "
            f"for x with C = {x.shape[1]}"
        )


class ChannelGate(OpFunction):
    op_name = "channel_gate"

    @staticmethod
    def forward(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        *layers, settings, backend = rest
        return _fwd(x, layers, settings, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, *layers, ctx.settings, ctx.backend = inputs
        weight1, _, *affine, weight2, _ = layers
        _, *small = output
        ctx.mark_non_differentiable(*small)
        ctx.dtypes = [None if t is None else t.dtype for t in layers]
        ctx.save_for_backward(x, *small, weight1, *affine, weight2)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors[:4]
        weight1, *affine, weight2 = ctx.saved_tensors[4:]
        wanted = ctx.needs_input_grad[:9]
        needs, layers = [wanted[0], any(wanted[1:])], [weight1, None, *affine, weight2, None]
        dx, dweight1, dweight2, vectors = _bwd(as_map(dy, x), x, saved, layers, needs, ctx.settings, ctx.backend)
        k = dweight1.shape[0]
        dbias1, dscale1, dshift1, dbias2 = vectors.split([k, k, k, len(vectors) - 3 * k])
        found = (dweight1, dbias1, dscale1, dshift1, None, None, dweight2, dbias2)
        kept = [g.to(t) if w and g is not None else None for g, w, t in zip(found, wanted[1:], ctx.dtypes, strict=True)]
        return dx if wanted[0] else None, *kept, None, None


@register_op("channel_gate_fwd")
def _fwd(
    x: Tensor, layers: list[Tensor | None], settings: Settings, backend: str
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The result; means (N, C), products of the first convolution and its bias (N, K), gates (N, C)."""
    n, c = x.shape[:2]
    k = layers[0].shape[0]  # type: ignore[union-attr]
    y = empty_map(x, x.shape)
    mean, hidden, gate = (torch.empty((n, width), dtype=accumulation(x), device=x.device) for width in (c, k, c))
    yield y, mean, hidden, gate
    OP.kernels(backend).forward(x, layers, y, mean, hidden, gate, settings)


@register_op("channel_gate_bwd")
def _bwd(
    dy: Tensor, x: Tensor, saved: list[Tensor], layers: list[Tensor | None], needs: list[bool], settings: Settings,
    backend: str,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:  # fmt: skip
    """dx, dweight1, dweight2 (empty where there is none), and one of the gradients of bias1, scale1, shift1, bias2.

    ``needs``: whether x, and whether anything of the layers, is to get a gradient.
    """
    weight1, weight2 = layers[0], layers[6]
    assert weight1 is not None
    dx = empty_map(x, x.shape if needs[0] else (0, *x.shape[1:]))
    dweight2 = weight1.new_empty(0) if weight2 is None else torch.empty_like(weight2)
    vectors = 3 * weight1.shape[0] + (0 if weight2 is None else x.shape[1])
    rest = torch.empty_like(weight1), dweight2, saved[0].new_empty(vectors)
    yield dx, *rest
    kernels = OP.kernels(backend)
    kernels.backward(dy, x, saved, layers, dx if needs[0] else None, rest if needs[1] else None, settings)
