"""``separable_pyramid``: a depthwise-separable convolution per level of a pooled pyramid, at the map's size again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...backends import Backend, Calls, Op, select
from ...registration import OpFunction, public, register_op
from .._shared.affine import dense_vectors
from .._shared.autocast import autocast
from .._shared.checks import check_choice, check_floating, check_length, check_like, check_map, check_vector, pairs
from .._shared.layout import empty_cells, empty_map, format_of, is_channels_last
from .._shared.precision import accumulation
from .._shared.windows import WINDOWS, grids, paired
from ..pyramid_pool import op as pool_op
from . import chain, reference
from .settings import Settings

OP = Op("separable_pyramid", "gemm", reference)


def _problems(x: Tensor, bins: pool_op.Bins, *_: Any, windows: str = "fixed", **__: Any) -> Calls:
    """Pooling alone has limits of its own: the problem is that of ``pyramid_pool``."""
    (x,) = autocast(x)
    return [(OP, *call[1:]) for call in pool_op._problems(x, bins, windows=windows)]


@public(_problems)
def separable_pyramid(
    x: Tensor,
    bins: pool_op.Bins,
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    bias: Sequence[Tensor | None] | None = None,
    *,
    windows: str = "fixed",
    include_input: bool = True,
    backend: Backend = "auto",
) -> Tensor:
    """SPEED's pyramid: pool to every grid, depthwise 3x3 and pointwise 1x1 there, resize to x's size, concatenate.

    Equivalent, for level l with its pooled map z, to ``conv2d(conv2d(z, depthwise[l], padding=1, groups=C),
    pointwise[l], bias[l])``, then ``interpolate(..., (H, W), mode="bilinear")``; levels are concatenated after x.

    Args:
        x: (N, C, H, W), contiguous or channels_last; float16, bfloat16, float32 or float64.
        bins, windows: the grids, as in ``pyramid_pool``; "fixed" pools by Keras's window = stride = (H//b, W//b).
        depthwise: one (C, 1, 3, 3) per level, in x's dtype.
        pointwise: one (O_l, C, 1, 1) per level, likewise.
        bias: one (O_l,) or None per level, float32 or x's dtype; or None for all.
        include_input: whether x comes first in the result.
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Returns:
        (N, [C +] sum O_l, H, W) in x's dtype (the autocast dtype under autocast) and memory format.

    Raises:
        TypeError, ValueError: naming the argument. BackendError: a named backend cannot run.

    Source: Papa et al., SPEED: Separable Pyramidal Pooling EncodEr-Decoder, 2022.
    """
    check_map("x", x)
    check_choice("windows", windows, WINDOWS)
    levels = pairs("bins", bins)
    grids(levels, (x.shape[2], x.shape[3]), windows)
    x, depthwise, pointwise, bias = _in_one_dtype(x, depthwise, pointwise, bias, len(levels))
    _check_shapes(x, depthwise, pointwise)
    vectors = _check_bias(x, bias, pointwise)
    backend = select(*_problems(x, levels, windows=windows)[0], backend)
    settings = Settings([v for level in levels for v in level], windows, include_input)
    if backend in ("reference", "composed"):
        return OP.python(backend)(x, depthwise, pointwise, vectors, settings)
    return SeparablePyramid.run(x, settings, backend, *depthwise, *pointwise, *vectors)[0]


def _in_one_dtype(
    x: Tensor, depthwise: Any, pointwise: Any, bias: Any, levels: int
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor | None]]:
    """All tensors as autocast has them, one of each kind per level."""
    bias = [None] * levels if bias is None else bias
    for name, tensors in (("depthwise", depthwise), ("pointwise", pointwise), ("bias", bias)):
        check_length(name, tensors, levels, "level")
        for i, t in enumerate(tensors):
            if t is not None or name != "bias":
                check_floating(f"{name}[{i}]", t)
    x, *tensors = autocast(x, *depthwise, *pointwise, *bias)
    return x, *_thirds(tensors)  # type: ignore[return-value]


def _check_shapes(x: Tensor, depthwise: list[Tensor], pointwise: list[Tensor]) -> None:
    c = x.shape[1]
    for i, (d, p) in enumerate(zip(depthwise, pointwise, strict=True)):
        check_like(f"depthwise[{i}]", d, "x", x)
        check_like(f"pointwise[{i}]", p, "x", x)
        if tuple(d.shape) != (c, 1, 3, 3):
            raise ValueError(f"depthwise[{i}] must be (C, 1, 3, 3) with x's C = {c}, got {tuple(d.shape)}")
        if p.dim() != 4 or tuple(p.shape[1:]) != (c, 1, 1) or p.shape[0] < 1:
            raise ValueError(f"pointwise[{i}] must be (O, C, 1, 1) with x's C = {c}, got {tuple(p.shape)}")


def _check_bias(x: Tensor, bias: list[Tensor | None], pointwise: list[Tensor]) -> tuple[Tensor | None, ...]:
    """One dense vector or None per level."""
    for i, (b, p) in enumerate(zip(bias, pointwise, strict=True)):
        if b is not None:
            check_vector(f"bias[{i}]", b, p.shape[0], x)
    return dense_vectors(*bias)


class SeparablePyramid(OpFunction):
    """Inputs: x, settings, backend, then depthwise, pointwise and bias of every level; results: y and both cells."""

    op_name = "separable_pyramid"

    @staticmethod
    def forward(x: Tensor, settings: Settings, backend: str, *tensors: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        return _fwd(x, *_thirds(tensors), settings, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, ctx.settings, ctx.backend, *tensors = inputs
        depthwise, pointwise, bias = _thirds(tensors)
        ctx.channels_last, ctx.dtypes = is_channels_last(x), [None if b is None else b.dtype for b in bias]
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:], *depthwise, *pointwise)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        cells, filtered, *weights = ctx.saved_tensors
        levels = len(ctx.dtypes)
        for_x, _, _, *wanted = ctx.needs_input_grad
        depthwise, pointwise = weights[:levels], weights[levels:]
        needs = [for_x, *map(any, _thirds(wanted))]
        dy = dy.contiguous(memory_format=format_of(ctx.channels_last))
        dx, ddepthwise, dpointwise, dbias = _bwd(
            dy, cells, filtered, depthwise, pointwise, ctx.channels_last, needs, ctx.settings, ctx.backend
        )
        if for_x and ctx.settings.include_input:
            dx.add_(dy.narrow(1, 0, cells.shape[1]))
        none = [None] * levels
        return (
            dx if for_x else None,
            None,
            None,
            *(ddepthwise if needs[1] else none),
            *(dpointwise if needs[2] else none),
            *(_spread(dbias, pointwise, ctx.dtypes) if needs[3] else none),
        )


def _thirds(values: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
    """What belongs to depthwise, to pointwise and to bias."""
    levels = len(values) // 3
    return values[:levels], values[levels : 2 * levels], values[2 * levels :]


def _spread(sums: Tensor, pointwise: list[Tensor], dtypes: list[torch.dtype | None]) -> list[Tensor | None]:
    """Each level's part of the biases' gradients, in its dtype; None where it has no bias."""
    parts = sums[1].split([p.shape[0] for p in pointwise])
    return [None if dtype is None else part.to(dtype) for part, dtype in zip(parts, dtypes, strict=True)]


@register_op("separable_pyramid_fwd")
def _fwd(
    x: Tensor, depthwise: list[Tensor], pointwise: list[Tensor], bias: list[Tensor | None], settings: Settings,
    backend: str,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:  # fmt: skip
    """y, the pooled cells and what the depthwise convolutions make of them."""
    n, c, h, w = x.shape
    channels = sum(p.shape[0] for p in pointwise) + (c if settings.include_input else 0)
    s = sum(rows * cols for rows, cols in grids(paired(settings.bins), (h, w), settings.windows))
    y = empty_map(x, (n, channels, h, w))
    cells, filtered = (empty_cells(is_channels_last(x), x, n, c, s) for _ in range(2))
    yield y, cells, filtered
    chain.forward(OP.kernels(backend), x, depthwise, pointwise, bias, y, cells, filtered, settings)


@register_op("separable_pyramid_bwd")
def _bwd(
    dy: Tensor, cells: Tensor, filtered: Tensor, depthwise: list[Tensor], pointwise: list[Tensor],
    channels_last: bool, needs: list[bool], settings: Settings, backend: str,
) -> Iterator[tuple[Tensor, list[Tensor], list[Tensor], Tensor]]:  # fmt: skip
    """dx, weight gradients with the weights' strides, and (2, sum O) sums; empty where not needed."""
    n, _, h, w = dy.shape
    shape, layout = (n if needs[0] else 0, cells.shape[1], h, w), format_of(channels_last)
    dx = torch.empty(shape, dtype=dy.dtype, device=dy.device, memory_format=layout)
    ddepthwise = [torch.empty_like(d) for d in depthwise] if needs[1] else []
    dpointwise = [torch.empty_like(p) for p in pointwise] if needs[2] else []
    channels = sum(p.shape[0] for p in pointwise) if needs[3] else 0
    sums = torch.empty((2, channels), dtype=accumulation(dy), device=dy.device)
    yield dx, ddepthwise, dpointwise, sums
    gradients = dx, ddepthwise, dpointwise, sums
    chain.backward(OP.kernels(backend), dy, cells, filtered, depthwise, pointwise, *gradients, needs, settings)
