"""``max_pool_pyramid``: a map and its stride-1 max pools, the spatial pyramid of YOLO, as one concat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...backends import Backend, Calls, Op, describe, select
from ...registration import OpFunction, public, register_op
from .._shared.checks import check_choice, check_map
from .._shared.layout import empty_map, format_of, is_channels_last
from . import composed, reference
from .checks import beyond, check_kernel_sizes
from .settings import Settings

OP = Op("max_pool_pyramid", "memory", reference, composed)

ORDERS = ("ascending", "descending")


def _differentiated(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled()


def _problems(x: Tensor, kernel_sizes: Any = None, *, cascade: bool = False, **_: Any) -> Calls:
    """Options: the kernels' limit that is exceeded, or None; whether a gradient is needed."""
    limit = beyond(check_kernel_sizes(kernel_sizes, cascade), cascade)
    return [(OP, describe(x, is_channels_last(x), limit, _differentiated(x)), tuple(x.shape))]


@public(_problems)
def max_pool_pyramid(
    x: Tensor,
    kernel_sizes: Sequence[int] | None = None,
    *,
    cascade: bool = False,
    order: str = "ascending",
    backend: Backend = "auto",
) -> Tensor:
    """``x`` and its stride-1, same-padded max pools, concatenated.

    Equivalent to ``cat([x, *[max_pool2d(x, k, 1, k // 2) for k in kernel_sizes]], 1)``; with ``cascade=True`` each
    pool takes the result of the one before. Windows and values of (5, 5, 5) in a cascade are those of (5, 9, 13), but
    of equal maxima another one may take the gradient.

    Args:
        x: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32 or float64.
        kernel_sizes: K odd sizes; ascending, default (5, 9, 13) (SPP), or where ``cascade=True`` equal, default
            (5, 5, 5) (SPPF).
        cascade: pool in series.
        order: "ascending" puts x first, then every pool; "descending" the widest window first and x last (YOLOv4).
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Returns:
        (N, C * (1 + K), H, W) in the dtype and memory format of x. Of equal maxima the first, row by row, takes the
        gradient, as in ``max_pool2d``; NaN propagates.

    Raises:
        TypeError, ValueError: naming the argument. BackendError: a named backend cannot run.

    Source: Redmon and Farhadi, YOLOv3 (the SPP variant), 2018; Bochkovskiy et al., YOLOv4, 2020; Jocher, YOLOv5 (SPPF).
    """
    check_map("x", x)
    check_choice("order", order, ORDERS)
    sizes = check_kernel_sizes(kernel_sizes, cascade)
    backend = select(*_problems(x, sizes, cascade=cascade)[0], backend)
    settings = Settings(sizes, cascade, order)
    if backend in ("reference", "composed"):
        return OP.python(backend)(x, settings)
    return MaxPoolPyramid.run(x, settings, _differentiated(x), backend)[0]


class MaxPoolPyramid(OpFunction):
    op_name = "max_pool_pyramid"

    @staticmethod
    def forward(x: Tensor, settings: Settings, keep: bool, backend: str) -> tuple[Tensor, Tensor]:
        return _fwd(x, settings, keep, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.settings, _, ctx.backend = inputs
        ctx.channels_last = is_channels_last(x)
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (indices,) = ctx.saved_tensors
        # Hooks on saved tensors, such as those that keep them in the host's memory, may have laid them out anew.
        indices = indices.contiguous(memory_format=format_of(ctx.channels_last))
        return _bwd(dy, indices, ctx.channels_last, ctx.settings, ctx.backend), None, None, None


@register_op("max_pool_pyramid_fwd")
def _fwd(x: Tensor, settings: Settings, keep: bool, backend: str) -> Iterator[tuple[Tensor, Tensor]]:
    """The concat and, if ``keep``, one byte per level and pixel: the place of the maximum in its window, row-major."""
    n, c, h, w = x.shape
    k = len(settings.kernel_sizes)
    y = empty_map(x, (n, (1 + k) * c, h, w))
    indices = empty_map(x, (n, k * c, h, w), torch.uint8) if keep else x.new_empty(0, dtype=torch.uint8)
    yield y, indices
    OP.kernels(backend).forward(x, y, indices if keep else None, settings)


@register_op("max_pool_pyramid_bwd")
def _bwd(dy: Tensor, indices: Tensor, channels_last: bool, settings: Settings, backend: str) -> Iterator[Tensor]:
    n, c, h, w = dy.shape
    shape = (n, c // (1 + len(settings.kernel_sizes)), h, w)
    dx = torch.empty(shape, dtype=dy.dtype, device=dy.device, memory_format=format_of(channels_last))
    yield dx
    OP.kernels(backend).backward(dy, indices, dx, settings)
