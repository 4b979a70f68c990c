"""``upsample_cross_entropy``: the loss of low-resolution logits at a target's size, without logits of that size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...backends import Op, Problem, describe, explained_by, select
from ...registration import OpFunction, register_op
from .._shared.layout import empty_map, is_channels_last
from .._shared.precision import accumulation
from . import composed, reference
from .checks import check_arguments, check_labels, check_target
from .settings import Settings

OP = Op("upsample_cross_entropy", "memory", reference, composed)


def _problem(logits: Tensor, target: Tensor) -> tuple[Problem, tuple[int, ...]]:
    """Sizes: those of the upsampled logits, then rows and columns of the logits."""
    return describe(logits, is_channels_last(logits)), (*logits.shape[:2], *target.shape[1:], *logits.shape[2:])


def _problems(logits: Tensor, target: Tensor, **_: Any) -> list[Any]:
    check_target(target, logits)
    return [(OP, *_problem(logits, target))]


@explained_by(_problems)
def upsample_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    align_corners: bool = False,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    backend: str = "auto",
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
    weight = None if weight is None else weight.detach().to(accumulation(logits)).contiguous()
    backend = select(OP, *_problem(logits, target), backend)
    if backend == "reference":
        if not torch.compiler.is_compiling():
            check_labels(target, logits.shape[1], ignore_index)
        return OP.python(backend)(logits, target, weight=weight, **settings._asdict())
    return UpsampleCrossEntropy.run(logits, target, weight, *settings, backend)[0]


class UpsampleCrossEntropy(OpFunction):
    op_name = "upsample_cross_entropy"

    @staticmethod
    def forward(logits: Tensor, target: Tensor, weight: Tensor | None, *settings: Any) -> tuple[Tensor, ...]:
        return _fwd(logits, target, weight, *settings)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        logits, target, weight, *ctx.settings = inputs
        _, lse, factor = output
        ctx.mark_non_differentiable(lse, factor)
        ctx.save_for_backward(logits, target, weight, lse, factor)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        return _bwd(dy.contiguous(), *ctx.saved_tensors, *ctx.settings), *[None] * 7


def _allocate(
    logits: Tensor, target: Tensor, weight: Tensor | None, align_corners: bool, ignore_index: int,
    label_smoothing: float, reduction: str, backend: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The loss, the logarithm of every pixel's normaliser, and what one pixel's loss counts in a reduction."""
    none = reduction == "none"
    shapes = (tuple(target.shape) if none else (), tuple(target.shape), (0 if none else 1,))
    y, lse, factor = (torch.empty(shape, dtype=accumulation(logits), device=logits.device) for shape in shapes)
    return y, lse, factor


def _forward(
    logits: Tensor, target: Tensor, weight: Tensor | None, align_corners: bool, ignore_index: int,
    label_smoothing: float, reduction: str, backend: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    settings = Settings(align_corners, ignore_index, label_smoothing, reduction)
    check_labels(target, logits.shape[1], ignore_index)
    results = _allocate(logits, target, weight, *settings, backend)
    OP.kernels(backend).forward(logits, target.contiguous(), weight, *results, settings)
    return results


def _allocate_dlogits(dy: Tensor, logits: Tensor, *_: Any) -> Tensor:
    return empty_map(logits, logits.shape)


def _backward(
    dy: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, lse: Tensor, factor: Tensor, align_corners: bool,
    ignore_index: int, label_smoothing: float, reduction: str, backend: str,
) -> Tensor:  # fmt: skip
    dlogits = _allocate_dlogits(dy, logits)
    settings = Settings(align_corners, ignore_index, label_smoothing, reduction)
    OP.kernels(backend).backward(dy, logits, target.contiguous(), weight, lse, factor, dlogits, settings)
    return dlogits


_SETTINGS = "bool align_corners, int ignore_index, float label_smoothing, str reduction, str backend"
_fwd = register_op(
    f"upsample_cross_entropy_fwd(Tensor logits, Tensor target, Tensor? weight, {_SETTINGS}) "
    "-> (Tensor, Tensor, Tensor)",
    _forward,
    _allocate,
)
_bwd = register_op(
    "upsample_cross_entropy_bwd(Tensor dy, Tensor logits, Tensor target, Tensor? weight, Tensor lse, Tensor factor, "
    f"{_SETTINGS}) -> Tensor",
    _backward,
    _allocate_dlogits,
)
