"""``upsample_cross_entropy``: the loss of low-resolution logits at a target's size, without logits of that size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...backends import Backend, Calls, Op, describe, select
from ...registration import OpFunction, public, register_op
from .._shared.layout import empty_map, is_channels_last
from .._shared.precision import accumulation
from . import composed, reference
from .checks import check_arguments, check_labels, check_target
from .settings import Settings

OP = Op("upsample_cross_entropy", "memory", reference, composed)


def _problems(logits: Tensor, target: Tensor, *, reduction: str = "mean", **_: Any) -> Calls:
    """Option: whether the gradient can be made along with the loss. Sizes: those of the upsampled logits, then rows and
    columns of the logits."""
    check_target(target, logits)
    problem = describe(logits, is_channels_last(logits), _differentiated(logits) and reduction != "none")
    return [(OP, problem, (*logits.shape[:2], *target.shape[1:], *logits.shape[2:]))]


def _differentiated(logits: Tensor) -> bool:
    return torch.is_grad_enabled() and logits.requires_grad


@public(_problems)
def upsample_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    align_corners: bool = False,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """Cross-entropy of ``logits``, bilinearly resized to the size of ``target``, without logits of that size.

    Equivalent to ``full = interpolate(logits, target.shape[1:], mode="bilinear", align_corners=align_corners)`` and
    ``cross_entropy(full.float(), target.long(), weight, ...)``, which is what "reference" runs. The others build no map
    of that size, and gradients are the same bits run by run: the kernels' everywhere, those of "composed" on a CPU.

    Args:
        logits: (N, C, h, w), contiguous or channels_last; float16, bfloat16, float32 or float64. Larger and smaller
            than the target alike; of its size, this is plain cross-entropy.
        target: (N, H, W) class indices in int64, int32, int16 or uint8, on the device of logits.
        align_corners: as in ``torch.nn.functional.interpolate``.
        weight: (C,) one factor per class or None, float32 or logits' dtype; it gets no gradient.
        ignore_index: the label of pixels that do not count; any int.
        label_smoothing: from 0 to 1, as in ``torch.nn.functional.cross_entropy``.
        reduction: "mean" (over the weights of the pixels that count; NaN where none does), "sum" or "none".
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Returns:
        () or, for "none", (N, H, W), contiguous; float32, float64 for float64 logits.

    Raises:
        TypeError, ValueError: naming the argument. IndexError: a label that is neither a class nor ignored, with its
        place, on a CPU; on a GPU a kernel stops with an assertion that names the op, and PyTorch's chain with its own.
        BackendError: a named backend cannot run.

    Source: the loss of Long et al., Fully Convolutional Networks, 2015, and of every network since that ends by
    upsampling its logits.
    """
    check_arguments(logits, target, weight, ignore_index, label_smoothing, reduction)
    settings = Settings(align_corners, ignore_index, float(label_smoothing), reduction)
    if weight is not None and weight.requires_grad:
        weight = weight.detach()  # it gets no gradient
    backend = select(*_problems(logits, target, reduction=reduction)[0], backend)
    if backend == "reference":
        try:
            return OP.python(backend)(logits, target, weight, settings)
        except IndexError:  # PyTorch's own does not say where
            check_labels(target, logits.shape[1], ignore_index)
            raise
    return UpsampleCrossEntropy.run(logits, target, weight, settings, _differentiated(logits), backend)[0]


class UpsampleCrossEntropy(OpFunction):
    op_name = "upsample_cross_entropy"

    @staticmethod
    def forward(
        logits: Tensor, target: Tensor, weight: Tensor | None, settings: Settings, differentiated: bool, backend: str
    ) -> tuple[Tensor, ...]:
        return _fwd(logits, target, weight, settings, differentiated, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        logits, target, weight, ctx.settings, _, ctx.backend = inputs
        _, kept, factor = output
        ctx.mark_non_differentiable(kept, factor)
        ctx.save_for_backward(logits, target, weight, kept, factor)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        return _bwd(dy.contiguous(), *ctx.saved_tensors, ctx.settings, ctx.backend), *[None] * 5


@register_op("upsample_cross_entropy_fwd")
def _fwd(
    logits: Tensor, target: Tensor, weight: Tensor | None, settings: Settings, differentiated: bool, backend: str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The loss, what the backward is given, and what one pixel's loss counts in a reduction.

    Kernels keep the logarithm of every pixel's normaliser; "composed" the gradient itself, where the factor of all
    pixels is one number.
    """
    none, dtype = settings.reduction == "none", accumulation(logits)
    y = logits.new_empty(tuple(target.shape) if none else (), dtype=dtype)
    if backend != "composed":
        kept = logits.new_empty(target.shape, dtype=dtype)
    elif differentiated and not none:
        kept = empty_map(logits, logits.shape, dtype)
    else:
        kept = logits.new_empty(0, dtype=dtype)
    factor = logits.new_empty(0 if none else 1, dtype=dtype)
    yield y, kept, factor
    check_labels(target, logits.shape[1], settings.ignore_index)
    OP.kernels(backend).forward(logits, *_dense(logits, target, weight), y, kept, factor, settings)


def _dense(logits: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The target and the weight as kernels read them."""
    return target.contiguous(), None if weight is None else weight.to(accumulation(logits)).contiguous()


@register_op("upsample_cross_entropy_bwd")
def _bwd(
    dy: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, kept: Tensor, factor: Tensor, settings: Settings,
    backend: str,
) -> Iterator[Tensor]:  # fmt: skip
    dlogits = empty_map(logits, logits.shape)
    yield dlogits
    read = _dense(logits, target, weight)
    OP.kernels(backend).backward(dy, logits, *read, kept, factor, dlogits, settings)
