"""``dilated_branches``: parallel same-padded 1x1 and dilated 3x3 convolutions of one map, never multiplying padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...backends import Backend, Calls, Op, describe, select
from ...registration import OpFunction, public, register_op
from .._shared.affine import ACTIVATIONS, Norm, check_affine
from .._shared.autocast import autocast
from .._shared.checks import check_choice, check_floating, check_length, check_like, check_map
from .._shared.layout import empty_map, is_channels_last
from .._shared.shortcuts import cast
from . import chain, composed, reference
from .settings import Settings

OP = Op("dilated_branches", "gemm", reference, composed)

#: Longer lists of branches are computed in chunks of this many.
CHUNK = 8


def sizes_of(x: Tensor, weights: Sequence[Tensor], dilations: Sequence[int]) -> tuple[int, ...]:
    """What the composed form's decision looks at: x's shape, all outputs, then the dilations of the 3x3 branches."""
    outputs = sum(w.shape[0] for w in weights)
    return (*x.shape, outputs, *(d for d, w in zip(dilations, weights, strict=True) if w.shape[2] == 3))


def _problems(x: Tensor, weights: Sequence[Tensor], *, dilations: Sequence[int], **_: Any) -> Calls:
    return [(OP, describe(x, is_channels_last(x)), sizes_of(x, weights, dilations))]


@public(_problems)
def dilated_branches(
    x: Tensor,
    weights: Sequence[Tensor],
    *,
    dilations: Sequence[int],
    scale: Sequence[Tensor | None] | None = None,
    shift: Sequence[Tensor | None] | None = None,
    norm: Sequence[Norm] | None = None,
    activation: str | None = None,
    merge: str = "concat",
    image_bias: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Convolve ``x`` with every branch and concatenate or sum the results, in one launch.

    Equivalent to ``cat([act(affine_i(conv2d(x, w_i, padding=k_i//2*d_i, dilation=d_i))) for ...], 1)``, or their sum.

    Args:
        x: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32 (float64: reference and composed).
        weights: one (O_i, C, k, k) per branch, k = 1 or 3, in x's dtype; channels_last weights are read in place.
        dilations: one positive int per branch (any for a 1x1).
        scale, shift: one (O_i,) tensor or None per branch, float32 or x's dtype.
        norm: instead, one (gamma, beta, mean, var, eps) per branch: an eval-mode BatchNorm; gamma and beta may be None.
        activation: None or "relu", per branch before the merge.
        merge: "concat", or "sum" (all O_i equal).
        image_bias: (N, O, k*k), one branch only: what constant per-image input channels add. Every tap inside the map
            adds its value before the affine.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Returns:
        (N, sum O_i, H, W), or (N, O, H, W) for a sum, in x's dtype and memory format. Under autocast x and weights are
        cast to the autocast dtype. float32 follows PyTorch's TF32 setting for convolutions.

    Raises:
        TypeError, ValueError: naming the argument. BackendError: a named backend cannot run.

    Source: Chen et al., Rethinking Atrous Convolution (DeepLab v3), 2017; DeepLab v2's sum, 2016.
    """
    x, weights, image_bias = check_branches(x, weights, dilations, image_bias)
    check_choice("activation", activation, ACTIVATIONS)
    check_choice("merge", merge, ("concat", "sum"))
    if merge == "sum" and len({w.shape[0] for w in weights}) > 1:
        raise ValueError(f"weights must have equal output channels for merge='sum', got {[len(w) for w in weights]}")
    affine, eps = check_affine(x, weights, scale, shift, norm)
    settings = Settings([int(d) for d in dilations], eps, activation == "relu", merge == "sum", False)
    backend = select(*_problems(x, weights, dilations=dilations)[0], backend)
    if backend in ("reference", "composed"):
        return OP.python(backend)(x, weights, affine, image_bias, settings)
    # Only what eager would save: the pre-activation where a multiplier's gradient or a summed ReLU's mask needs it.
    saved = torch.is_grad_enabled() and (
        (settings.merged and settings.relu) or any(a is not None and a.requires_grad for a, *_ in affine)
    )
    chunks = []
    for i in range(0, len(weights), CHUNK):
        part = slice(i, i + CHUNK)
        tensors = [*weights[part], *(t for four in affine[part] for t in four)]
        own = settings._replace(dilations=settings.dilations[part], eps=eps[part], saved=saved)
        chunks.append(DilatedBranches.run(x, image_bias, own, backend, *tensors)[0])
    if len(chunks) == 1:
        return chunks[0]
    return torch.cat(chunks, 1) if merge == "concat" else torch.stack(chunks).sum(0)


def check_branches(
    x: Tensor, weights: Sequence[Tensor], dilations: Sequence[int], image_bias: Tensor | None
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """Checked and, under autocast, cast arguments that every branch op shares."""
    check_map("x", x)
    if not isinstance(weights, list | tuple) or not weights:
        raise ValueError(f"weights must be a non-empty list of tensors, one per branch, got {weights!r}")
    check_length("dilations", dilations, len(weights), "branch")
    for i, (w, d) in enumerate(zip(weights, dilations, strict=True)):
        name = f"weights[{i}]"
        check_floating(name, w)
        if w.dim() != 4 or w.shape[1] != x.shape[1] or tuple(w.shape[2:]) not in ((1, 1), (3, 3)) or w.shape[0] == 0:
            raise ValueError(
                f"{name} must be (O, {x.shape[1]}, 1, 1) or (O, {x.shape[1]}, 3, 3) for x with {x.shape[1]} channels, "
                f"got {tuple(w.shape)}"
            )
        if isinstance(d, bool) or not isinstance(d, int):
            raise TypeError(f"dilations must be ints, got {d!r} for branch {i}")
        if d < 1:
            raise ValueError(f"dilations must be positive, got {d} for branch {i}")
    x, *cast = autocast(x, *weights)
    for i, w in enumerate(cast):
        check_like(f"weights[{i}]", w, "x", x)
    return x, cast, check_image_bias(x, cast, image_bias)


def check_image_bias(x: Tensor, weights: list[Tensor], image_bias: Tensor | None) -> Tensor | None:
    if image_bias is None:
        return None
    check_floating("image_bias", image_bias)
    w = weights[0]
    expected = (x.shape[0], w.shape[0], w.shape[2] * w.shape[3])
    if len(weights) != 1 or tuple(image_bias.shape) != expected:
        raise ValueError(
            f"image_bias must be (N, O, k*k) = {expected} beside a single branch, got {tuple(image_bias.shape)} beside "
            f"{len(weights)}"
        )
    check_like("image_bias", image_bias, "x", x, dtype=False)
    return cast(image_bias, x.dtype)


class DilatedBranches(OpFunction):
    """Inputs: x, image_bias, settings, backend, the branches' weights, then four affine tensors or None of each."""

    op_name = "dilated_branches"

    @staticmethod
    def forward(
        x: Tensor, image_bias: Tensor | None, settings: Settings, backend: str, *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        branches = len(settings.dilations)
        return _fwd(x, tensors[:branches], tensors[branches:], image_bias, settings, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, _, ctx.settings, ctx.backend, *tensors = inputs
        y, z = output
        ctx.mark_non_differentiable(z)
        ctx.save_for_backward(x, y if ctx.settings.relu and not ctx.settings.saved else z, *tensors)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, saved, *tensors = ctx.saved_tensors
        weights, affine, needs = split(ctx, tensors)
        found = _bwd(dy, x, weights, affine, needs, saved, ctx.settings, ctx.backend)
        return in_order(found, weights, affine, needs)


def split(ctx: Any, tensors: list[Any]) -> tuple[list[Tensor], list[Tensor | None], list[bool]]:
    """Weights, affine vectors, and whether x, weights, affine vectors and the image bias need gradients."""
    branches = len(ctx.settings.dilations)
    for_x, for_image, _, _, *wanted = ctx.needs_input_grad
    needs = [for_x, any(wanted[:branches]), any(wanted[branches:]), for_image]
    return tensors[:branches], tensors[branches:], needs


def in_order(
    found: tuple[Tensor, list[Tensor], Tensor, Tensor], weights: list[Tensor], affine: list[Tensor | None],
    needs: list[bool],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients in the order of the inputs; None where not needed."""
    dx, dweights, dvectors, dimage = found
    return (
        dx if needs[0] else None,
        dimage if needs[3] else None,
        None,
        None,
        *(dweights if needs[1] else [None] * len(weights)),
        *(_spread(dvectors, weights, affine) if needs[2] else [None] * len(affine)),
    )


def _spread(sums: Tensor, weights: list[Tensor], affine: list[Tensor | None]) -> list[Tensor | None]:
    """Gradients for (multiplier, offset, mean, variance) of every branch: rows of ``sums`` (2, channels), and None."""
    gradients: list[Tensor | None] = []
    parts = sums.split([w.shape[0] for w in weights], 1)
    for b, part in enumerate(parts):
        pair = zip(part, affine[4 * b : 4 * b + 2], strict=True)
        gradients += [None if t is None else d.to(t.dtype) for d, t in pair]
        gradients += [None, None]
    return gradients


@register_op("dilated_branches_fwd")
def _fwd(
    x: Tensor, weights: list[Tensor], affine: list[Tensor | None], image_bias: Tensor | None, settings: Settings,
    backend: str,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """The result in x's memory format and, if saved, every branch's pre-affine output in channels_last."""
    n, _, h, w = x.shape
    channels = sum(weight.shape[0] for weight in weights)
    y = empty_map(x, (n, weights[0].shape[0] if settings.merged else channels, h, w))
    shape = (n, channels, h, w) if settings.saved else (0, 1, 1, 1)
    z = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    yield y, z
    kept = z if settings.saved else None
    chain.forward(OP.kernels(backend), x, weights, affine, image_bias, y, kept, None, settings)


def empty_gradients(x: Tensor, weights: list[Tensor], needs: list[bool]) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    """dx in x's format, dw in the weights' strides, (2, channels) vector sums, image bias; empty where not needed."""
    dx = empty_map(x, x.shape if needs[0] else (0, 1, 1, 1))
    dweights = [_like_weight(w) for w in weights] if needs[1] else []
    channels = sum(w.shape[0] for w in weights) if needs[2] else 0
    dvectors = torch.empty((2, channels), dtype=torch.float32, device=x.device)
    taps = weights[0].shape[2] * weights[0].shape[3]
    dimage = torch.empty((x.shape[0] if needs[3] else 0, weights[0].shape[0], taps), dtype=x.dtype, device=x.device)
    return dx, dweights, dvectors, dimage


def _like_weight(weight: Tensor) -> Tensor:
    """A gradient with the weight's strides where its taps have one stride, as kernels write them; else contiguous."""
    like = torch.empty_like(weight)
    kernel = weight.shape[2]
    one_stride = kernel == 1 or like.stride(2) == kernel * like.stride(3)
    return like if one_stride else torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)


@register_op("dilated_branches_bwd")
def _bwd(
    dy: Tensor, x: Tensor, weights: list[Tensor], affine: list[Tensor | None], needs: list[bool], kept: Tensor,
    settings: Settings, backend: str,
) -> Iterator[tuple[Tensor, list[Tensor], Tensor, Tensor]]:  # fmt: skip
    gradients = empty_gradients(x, weights, needs)
    yield gradients
    chain.backward(OP.kernels(backend), dy, x, weights, affine, kept, *gradients, needs, settings)
