"""``upsample_merge``: maps of several resolutions brought to one, concatenated or summed, in one write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...backends import Backend, Calls, Op, describe, select
from ...registration import OpFunction, Sizes, public, register_op
from .._shared.affine import ACTIVATIONS, dense_vectors
from .._shared.checks import check_choice, check_vector
from .._shared.layout import empty_map, format_of, is_channels_last
from .._shared.precision import accumulation
from . import composed, reference
from .checks import check_maps, output_size
from .layout import leader
from .settings import Settings

OP = Op("upsample_merge", "memory", reference, composed)


def _problems(
    maps: Sequence[Tensor], size: Any = None, *, mode: str = "bilinear", merge: str = "concat", **_: Any
) -> Calls:
    """Sizes: N, H, W, then the channels, rows and columns of every map."""
    target = output_size(maps, size)
    problem = describe(maps[0], is_channels_last(leader(maps, target)), mode, merge, len(maps))
    return [(OP, problem, (maps[0].shape[0], *target, *(s for m in maps for s in m.shape[1:])))]


@public(_problems)
def upsample_merge(
    maps: Sequence[Tensor],
    size: tuple[int, int] | None = None,
    *,
    mode: str = "bilinear",
    align_corners: bool = False,
    merge: str = "concat",
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: str | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Resize every map to ``size``, concatenate or sum them, then apply a per-channel affine and an activation.

    Equivalent to ``y = cat([interpolate(m, size, mode=mode, align_corners=align_corners) for m in maps], 1)`` (or the
    sum of that list), then ``activation(y * scale + shift)``, written once and with a deterministic backward.

    Args:
        maps: (N, C_i, H_i, W_i) each, of one N, dtype and device ("sum": also one C); read through their strides, so
            views such as the levels of ``pyramid_project`` cost no copy. A map already at ``size`` is taken as it is.
        size: (H, W) of the result; by default that of the first map.
        mode: "bilinear" or "nearest".
        align_corners: as in ``torch.nn.functional.interpolate``; only with "bilinear".
        merge: "concat" over channels, or "sum".
        scale, shift: (C_out,) each or None, float32 or the maps' dtype.
        activation: None or "relu".
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Returns:
        (N, C_out, H, W) in the maps' dtype, also under autocast (where maps of several dtypes are promoted first; eager
        CUDA returns float32 for bilinear there). Memory format of the first map of ``size``, else of the first map of
        more than one pixel.

    Raises:
        TypeError, ValueError: naming the argument. BackendError: a named backend cannot run.

    Source: Zhao et al., PSPNet, 2017 (concat); Sun et al., HRNet, 2019, and Lin et al., FPN, 2017 (sum).
    """
    maps, target = check_maps(maps, size, mode, align_corners, merge)
    channels = maps[0].shape[1] if merge == "sum" else sum(m.shape[1] for m in maps)
    for name, vector in (("scale", scale), ("shift", shift)):
        if vector is not None:
            check_vector(name, vector, channels, maps[0])
    check_choice("activation", activation, ACTIVATIONS)
    backend = select(*_problems(maps, target, mode=mode, merge=merge)[0], backend)
    settings = Settings(mode, align_corners, merge, activation == "relu")
    if backend in ("reference", "composed"):
        return OP.python(backend)(maps, target, scale, shift, settings)
    return UpsampleMerge.run(*dense_vectors(scale, shift), *maps, list(target), settings, backend)[0]


class UpsampleMerge(OpFunction):
    op_name = "upsample_merge"

    @staticmethod
    def forward(scale: Tensor | None, shift: Tensor | None, *rest: Any) -> tuple[Tensor]:
        *maps, size, settings, backend = rest
        return (_fwd(maps, size, scale, shift, settings, backend),)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor]) -> None:
        scale, shift, *maps, _, ctx.settings, ctx.backend = inputs
        (y,) = output
        ctx.shapes = [tuple(m.shape[1:]) for m in maps]
        ctx.formats = [is_channels_last(m) for m in maps]
        ctx.channels_last = is_channels_last(y)
        ctx.affine_dtypes = [None if v is None else v.dtype for v in (scale, shift)]
        recomputed = maps if scale is not None and ctx.needs_input_grad[0] else []
        ctx.save_for_backward(y if ctx.settings.relu else None, scale, *recomputed)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        y, scale, *maps = ctx.saved_tensors
        dy = dy.contiguous(memory_format=format_of(ctx.channels_last))
        return *_affine_gradients(ctx, dy, y, maps), *_map_gradients(ctx, dy, y, scale), None, None, None


def _affine_gradients(ctx: Any, dy: Tensor, y: Tensor | None, maps: list[Tensor]) -> Any:
    want_scale, want_shift = ctx.needs_input_grad[:2]
    if not (want_scale or want_shift):
        return None, None
    sums = _bwd_affine(dy, y, maps, ctx.settings, ctx.backend)
    dscale = sums[1].to(ctx.affine_dtypes[0]) if want_scale else None
    return dscale, sums[0].to(ctx.affine_dtypes[1]) if want_shift else None


def _map_gradients(ctx: Any, dy: Tensor, y: Tensor | None, scale: Tensor | None) -> list[Tensor | None]:
    """A map taken as it is gets its slice of dy itself, where nothing stands between them; a kernel fills the rest."""
    dmaps: list[Tensor | None] = [None] * len(ctx.shapes)
    computed, shapes, formats = [], [], []
    first = 0
    for i, (shape, channels_last) in enumerate(zip(ctx.shapes, ctx.formats, strict=True)):
        if ctx.needs_input_grad[2 + i]:
            if y is None and scale is None and tuple(shape[1:]) == tuple(dy.shape[2:]):
                # The same object for every map of a sum: autograd then copies where it would keep a view as .grad.
                dmaps[i] = dy if ctx.settings.merge == "sum" else dy.narrow(1, first, shape[0])
            else:
                computed.append(i)
                shapes += [first, *shape]
                formats.append(channels_last)
        first += shape[0] if ctx.settings.merge == "concat" else 0
    if computed:
        found = _bwd_maps(dy, y, scale, shapes, formats, ctx.settings, ctx.backend)
        for i, dmap in zip(computed, found, strict=True):
            dmaps[i] = dmap
    return dmaps


@register_op("upsample_merge_fwd")
def _fwd(
    maps: list[Tensor], size: Sizes, scale: Tensor | None, shift: Tensor | None, settings: Settings, backend: str
) -> Iterator[Tensor]:
    channels = maps[0].shape[1] if settings.merge == "sum" else sum(m.shape[1] for m in maps)
    y = empty_map(leader(maps, size), (maps[0].shape[0], channels, *size))
    yield y
    OP.kernels(backend).forward(maps, scale, shift, y, settings)


@register_op("upsample_merge_bwd_maps")
def _bwd_maps(
    dy: Tensor, y: Tensor | None, scale: Tensor | None, shapes: Sizes, formats: list[bool], settings: Settings,
    backend: str,
) -> Iterator[list[Tensor]]:  # fmt: skip
    """``shapes``: of every map the first channel in the output, then C, H and W."""
    layouts = [format_of(last) for last in formats]
    dmaps = [
        torch.empty((dy.shape[0], *shapes[4 * i + 1 : 4 * i + 4]), dtype=dy.dtype, device=dy.device, memory_format=f)
        for i, f in enumerate(layouts)
    ]
    yield dmaps
    OP.kernels(backend).backward_maps(dy, y, scale, dmaps, shapes[::4], settings)


@register_op("upsample_merge_bwd_affine")
def _bwd_affine(dy: Tensor, y: Tensor | None, maps: list[Tensor], settings: Settings, backend: str) -> Iterator[Tensor]:
    """Row 0 is dshift and, where maps are given, row 1 dscale."""
    sums = torch.empty((2 if maps else 1, dy.shape[1]), dtype=accumulation(dy), device=dy.device)
    yield sums
    OP.kernels(backend).backward_affine(dy, y, maps, sums, settings)
