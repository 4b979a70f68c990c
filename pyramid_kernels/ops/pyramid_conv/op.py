"""``pyramid_conv``: a convolution of maps resized to one size and concatenated, mixed at each map's own resolution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...backends import Backend, Calls, Op, describe, select
from ...registration import OpFunction, public, register_op
from .._shared.affine import dense_vectors
from .._shared.layout import as_map, empty_map, is_channels_last, placed
from .._shared.precision import accumulation
from ..upsample_merge.checks import output_size
from ..upsample_merge.layout import leader
from ..upsample_merge.op import OP as MERGING
from . import composed, dense, reference
from .checks import check_arguments
from .settings import Settings

OP = Op("pyramid_conv", "gemm", reference, composed)


def _problems(
    maps: Sequence[Tensor], weight: Tensor, bias: Any = None, *, size: Any = None, mode: str = "bilinear", **_: Any
) -> Calls:
    """Sizes: N, O, k, H, W, then the channels, rows and columns of every map."""
    target = output_size(maps, size)
    problem = describe(maps[0], is_channels_last(leader(maps, target)), mode, len(maps))
    n, o, k = maps[0].shape[0], weight.shape[0], weight.shape[2]
    return [(OP, problem, (n, o, k, *target, *(s for m in maps for s in m.shape[1:])))]


@public(_problems)
def pyramid_conv(
    maps: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    size: tuple[int, int] | None = None,
    mode: str = "bilinear",
    align_corners: bool = False,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: str | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Convolve the concat of ``maps`` at ``size``, without upsampling the smaller ones first.

    Equivalent to ``z = conv2d(cat([interpolate(m, size, mode=mode, align_corners=align_corners) for m in maps], 1),
    weight, bias, padding=k // 2)``, then ``activation(z * scale + shift)``. Exact in real arithmetic, also backward:
    mixing channels commutes with resampling, tap by tap, where a tap outside the map counts as zero.

    Args:
        maps: (N, C_i, H_i, W_i) each, of one N, dtype and device; float16, bfloat16, float32 or float64.
        weight: (O, sum C_i, k, k), k = 1 or 3, in the maps' dtype; columns in the order of the maps.
        bias: (O,) or None, float32 or the maps' dtype.
        size: (H, W) of the result; by default that of the first map.
        mode: "bilinear" or "nearest".
        align_corners: as in ``torch.nn.functional.interpolate``; only with "bilinear".
        scale, shift: (O,) each or None, float32 or the maps' dtype.
        activation: None or "relu".
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Returns:
        (N, O, H, W) in the maps' dtype, under autocast in the autocast dtype. Memory format of the first map of
        ``size``, else of the first map of more than one pixel. float32 follows PyTorch's TF32 setting for convolutions.

    Raises:
        TypeError, ValueError: naming the argument. BackendError: a named backend cannot run.

    Source: the heads of PSPNet (2017), UPerNet and DeepLabv3+ (2018), HRNetV2 (2019) and SegFormer (2021).
    """
    maps, weight, target = check_arguments(
        maps, weight, size, mode, align_corners, activation, {"bias": bias, "scale": scale, "shift": shift}
    )
    bias, scale, shift = dense_vectors(bias, scale, shift)
    backend = select(*_problems(maps, weight, size=target, mode=mode)[0], backend)
    # Only what eager would save: the value before the affine where scale's gradient needs it.
    saved = torch.is_grad_enabled() and scale is not None and scale.requires_grad
    settings = Settings(list(target), mode, align_corners, activation == "relu", saved)
    if backend in ("reference", "composed"):
        return OP.python(backend)(maps, weight, bias, scale, shift, settings)
    return PyramidConv.run(weight, bias, scale, shift, settings, backend, *maps)[0]


class PyramidConv(OpFunction):
    op_name = "pyramid_conv"

    @staticmethod
    def forward(
        weight: Tensor, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None, settings: Settings,
        backend: str, *maps: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        return _fwd(maps, weight, bias, scale, shift, settings, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        weight, bias, scale, shift, settings, ctx.backend, *maps = inputs
        y, z = output
        ctx.mark_non_differentiable(z)
        ctx.settings, ctx.dtypes = settings, [None if v is None else v.dtype for v in (bias, scale, shift)]
        ctx.save_for_backward(weight, scale, y if settings.relu else None, z if settings.saved else None, *maps)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale, y, z, *maps = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        dy = as_map(dy, leader(maps, ctx.settings.size))
        vectors = _vector_gradients(ctx, dy, scale, y, z)
        needs = [wanted[0], *wanted[6:]]
        dweight, *dmaps = needs
        if any(needs):
            dweight, *dmaps = _bwd(dy, maps, weight, scale, y, needs, ctx.settings, ctx.backend)
        kept = [d if need else None for d, need in zip((dweight, *dmaps), needs, strict=True)]
        return kept[0], *vectors, None, None, *kept[1:]


def _vector_gradients(ctx: Any, dy: Tensor, scale: Tensor | None, y: Tensor | None, z: Tensor | None) -> list[Any]:
    """Gradients of bias, scale and shift from the sums of dy behind the ReLU, and of its product with z."""
    wanted = ctx.needs_input_grad[1:4]
    if not any(wanted):
        return [None] * 3
    sums = _bwd_sums(dy, y, z, ctx.settings, ctx.backend)
    dbias = sums[0] * scale if wanted[0] and scale is not None else sums[0]
    found = (dbias, sums[-1], sums[0])
    return [g.to(t) if w else None for g, t, w in zip(found, ctx.dtypes, wanted, strict=True)]


def _allocate(
    maps: list[Tensor], weight: Tensor, bias: Any, scale: Any, shift: Any, settings: Settings, _: str
) -> tuple[Tensor, Tensor]:
    """The result and, if saved, the value before the affine, in one memory format."""
    like, shape = leader(maps, settings.size), (maps[0].shape[0], weight.shape[0], *settings.size)
    return empty_map(like, shape), empty_map(like, shape if settings.saved else (0, 1, 1, 1))


@register_op("pyramid_conv_fwd", fake=_allocate)
def _fwd(
    maps: list[Tensor], weight: Tensor, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None,
    settings: Settings, backend: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    base, operand, levels = dense.products(MERGING.kernels(backend), maps, weight, settings)
    like, shape = leader(maps, settings.size), (maps[0].shape[0], weight.shape[0], *settings.size)
    # Merged in place: each element is read by the thread that writes it.
    base = None if base is None else placed(base, like)
    y = empty_map(like, shape) if base is None else base
    z = empty_map(like, shape if settings.saved else (0, 1, 1, 1))
    kept = z if settings.saved else None
    OP.kernels(backend).merge(base, operand, levels, bias, scale, shift, y, kept, weight.shape[2], settings)
    return y, z


def _allocate_gradients(
    dy: Tensor, maps: list[Tensor], weight: Tensor, scale: Any, y: Any, needs: list[bool], *_: Any
) -> list[Tensor]:
    """The weight's in its strides, then one per map in its memory format; empty where not needed."""
    dmaps = [empty_map(m, m.shape if need else (0, 1, 1, 1)) for m, need in zip(maps, needs[1:], strict=True)]
    return [torch.empty_like(weight) if needs[0] else weight.new_empty(0), *dmaps]


@register_op("pyramid_conv_bwd", fake=_allocate_gradients)
def _bwd(
    dy: Tensor, maps: list[Tensor], weight: Tensor, scale: Tensor | None, y: Tensor | None, needs: list[bool],
    settings: Settings, backend: str,
) -> list[Tensor]:  # fmt: skip
    return dense.gradients(OP.kernels(backend), MERGING.kernels(backend), dy, maps, weight, scale, y, needs, settings)


@register_op("pyramid_conv_bwd_sums")
def _bwd_sums(dy: Tensor, y: Tensor | None, z: Tensor | None, settings: Settings, backend: str) -> Iterator[Tensor]:
    """Row 0: sums of dy behind the ReLU; where z is given, row 1: those of its product with z."""
    sums = torch.empty((1 if z is None else 2, dy.shape[1]), dtype=accumulation(dy), device=dy.device)
    yield sums
    dense.sums(MERGING.kernels(backend), dy, y, z, sums)
