"""``upsample_argmax``: the label map of low-resolution logits at full size, without logits of that size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...backends import Backend, Calls, Op, describe, select
from ...registration import OpFunction, public, register_op
from .._shared.checks import check_choice, check_map, check_size
from .._shared.layout import is_channels_last
from . import composed, reference
from .settings import Settings

OP = Op("upsample_argmax", "memory", reference, composed)

DTYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)


def _problems(logits: Tensor, size: Any, **_: Any) -> Calls:
    """Sizes: those of the upsampled logits."""
    return [(OP, describe(logits, is_channels_last(logits)), (*logits.shape[:2], *check_size(size)))]


@public(_problems)
def upsample_argmax(
    logits: Tensor,
    size: tuple[int, int],
    *,
    align_corners: bool = False,
    dtype: torch.dtype = torch.uint8,
    backend: Backend = "auto",
) -> Tensor:
    """The largest class of every pixel of ``logits``, bilinearly resized to ``size``; no tensor of that size is built.

    Equivalent to ``interpolate(logits.float(), size, mode="bilinear", align_corners=align_corners).argmax(1)``: the
    first class of equal ones, the first NaN before all others.

    Args:
        logits: (N, C, h, w), contiguous or channels_last; float16, bfloat16, float32 or float64. No gradient flows.
        size: (H, W) of the label map; larger and smaller than logits alike.
        align_corners: as in ``torch.nn.functional.interpolate``.
        dtype: torch.uint8, int16, int32 or int64; must hold C - 1.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Returns:
        (N, H, W) in ``dtype``, contiguous.

    Raises:
        TypeError, ValueError: naming the argument. BackendError: a named backend cannot run.

    Source: the last step of inference with Long et al., Fully Convolutional Networks, 2015, and its successors.
    """
    check_map("logits", logits)
    size = check_size(size)
    check_choice("dtype", dtype, DTYPES)
    if logits.shape[1] > torch.iinfo(dtype).max + 1:
        raise ValueError(f"dtype must hold {logits.shape[1]} classes, got {dtype}; use torch.int16 or a wider one")
    backend = select(*_problems(logits, size)[0], backend)
    settings = Settings(list(size), align_corners, dtype)
    if backend == "reference":
        return OP.python(backend)(logits, settings)
    with torch.no_grad():
        return UpsampleArgmax.run(logits, settings, backend)[0]


class UpsampleArgmax(OpFunction):
    op_name = "upsample_argmax"

    @staticmethod
    def forward(logits: Tensor, settings: Settings, backend: str) -> tuple[Tensor]:
        return (_fwd(logits, settings, backend),)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor]) -> None:
        ctx.mark_non_differentiable(*output)


@register_op("upsample_argmax_fwd")
def _fwd(logits: Tensor, settings: Settings, backend: str) -> Iterator[Tensor]:
    labels = torch.empty((logits.shape[0], *settings.size), dtype=settings.dtype, device=logits.device)
    yield labels
    OP.kernels(backend).forward(logits, labels, settings)
