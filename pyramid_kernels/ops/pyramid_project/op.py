"""``pyramid_project``: a 1x1 convolution, norm or affine, and activation per level of a packed pyramid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...backends import Backend, Calls, Op, describe, select
from ...registration import OpFunction, Sizes, public, register_op
from .._shared.affine import ACTIVATIONS, Norm, Vectors, check_affine
from .._shared.autocast import autocast
from .._shared.checks import check_choice, check_floating, check_length, check_like, pairs
from .._shared.layout import as_cells, cells_are_channels_last, empty_cells
from .._shared.precision import accumulation
from . import reference
from .settings import Settings

OP = Op("pyramid_project", "gemm", reference)

Grids = Sequence[tuple[int, int]]


def pyramid_levels(packed: Tensor, grids: Grids, channels: Sequence[int]) -> list[Tensor]:
    """The (N, O_l, rows, cols) map of every level inside the result of ``pyramid_project``: views, no copies.

    ``channels`` holds O_l per level. ValueError where grids, channels and the packed tensor do not fit together.
    """
    levels = pairs("grids", grids)
    check_length("channels", channels, len(levels), "level")
    if packed.dim() != 3 or packed.shape[1] != sum(channels) or packed.shape[2] < max(r * c for r, c in levels):
        raise ValueError(
            f"packed must be (N, {sum(channels)}, S) with S of at least {max(r * c for r, c in levels)}, "
            f"the result of pyramid_project for these grids and channels; got {tuple(packed.shape)}"
        )
    # Split along a middle dimension: at the end, a view of one image gets strides that PyTorch takes for NCHW.
    blocks = packed.transpose(1, 2).split(list(channels), 2)  # [N, S, O_l]
    cut = [b[:, : r * c].unflatten(1, (r, c)) for b, (r, c) in zip(blocks, levels, strict=True)]
    return [b.permute(0, 3, 1, 2) for b in cut]


def _problems(pooled: Tensor, grids: Grids, weights: Sequence[Tensor], **_: Any) -> Calls:
    pooled, *_casts = autocast(pooled)
    return [(OP, describe(pooled, cells_are_channels_last(pooled)), tuple(pooled.shape))]


@public(_problems)
def pyramid_project(
    pooled: Tensor,
    grids: Grids,
    weights: Sequence[Tensor],
    *,
    scale: Vectors = None,
    shift: Vectors = None,
    norm: Sequence[Norm] | None = None,
    activation: str | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Mix the channels of every pyramid level by its own matrix: the middle step of a pyramid-pooling module.

    Equivalent, for level l with its cells x_l = pooled[:, :, first_l : first_l + rows_l * cols_l], to
    ``y_l = conv1d(x_l, weights[l].view(O_l, C, 1))``, then ``batch_norm(y_l, ...)`` or ``y_l * scale[l] + shift[l]``,
    then the activation; levels are concatenated over channels and padded with zeros over cells.

    Args:
        pooled: (N, C, S), the result of ``pyramid_pool``; float16, bfloat16, float32 or float64.
        grids: (rows, cols) of every level, as ``pyramid_grids`` gives them; their cells sum to S.
        weights: one (O_l, C) or (O_l, C, 1, 1) per level, in pooled's dtype.
        scale, shift: one (O_l,) or None per level, float32 or pooled's dtype.
        norm: one (gamma or None, beta or None, mean, var, eps) per level, an eval-mode BatchNorm read as it is; give
            it or scale and shift. mean and var take no gradient.
        activation: None or "relu".
        backend: "auto", "cuda", "triton", "composed" or "reference".

    Returns:
        (N, sum O_l, S') in pooled's dtype (the autocast dtype under autocast) and layout, S' the cells of the largest
        level: level l's map is ``out[:, o_l : o_l + O_l, : rows * cols].unflatten(2, (rows, cols))``, a view (see
        ``pyramid_levels``); the rest is zero.

    Raises:
        TypeError, ValueError: naming the argument. BackendError: a named backend cannot run.

    Source: Zhao et al., Pyramid Scene Parsing Network, 2017.
    """
    check_floating("pooled", pooled)
    levels = pairs("grids", grids)
    check_length("weights", weights, len(levels), "level")
    for i, w in enumerate(weights):
        check_floating(f"weights[{i}]", w)
    pooled, *matrices = autocast(pooled, *weights)
    _check(pooled, levels, matrices)
    affine, eps = check_affine(pooled, matrices, scale, shift, norm, "level")
    check_choice("activation", activation, ACTIVATIONS)
    backend = select(*_problems(pooled, levels, matrices)[0], backend)
    # Only what eager would save: the products where a gain's gradient needs them.
    saved = torch.is_grad_enabled() and any(gain is not None and gain.requires_grad for gain, *_ in affine)
    settings = Settings([rows * cols for rows, cols in levels], eps, activation == "relu", saved)
    if backend in ("reference", "composed"):
        return OP.python(backend)(pooled, matrices, affine, settings)
    vectors = [v for column in zip(*affine, strict=True) for v in column]
    return PyramidProject.run(pooled, settings, backend, *matrices, *vectors)[0]


def _check(pooled: Tensor, levels: list[tuple[int, int]], weights: list[Tensor]) -> None:
    cells = sum(rows * cols for rows, cols in levels)
    if pooled.dim() != 3 or pooled.shape[2] != cells or pooled.shape[1] < 1:
        raise ValueError(
            f"pooled must be (N, C, {cells}), {cells} being the cells of grids {levels}, got {tuple(pooled.shape)}; "
            "pass the result of pyramid_pool and the grids of pyramid_grids"
        )
    c = pooled.shape[1]
    for i, w in enumerate(weights):
        check_like(f"weights[{i}]", w, "pooled", pooled)
        if w.dim() not in (2, 4) or tuple(w.shape[1:]) not in ((c,), (c, 1, 1)) or w.shape[0] < 1:
            raise ValueError(f"weights[{i}] must be (O, C) or (O, C, 1, 1) with pooled's C = {c}, got {tuple(w.shape)}")


class PyramidProject(OpFunction):
    """Inputs: pooled, settings, backend, the levels' weights, then their gains, biases, means, variances (or None)."""

    op_name = "pyramid_project"

    @staticmethod
    def forward(pooled: Tensor, settings: Settings, backend: str, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        levels = len(settings.cells)
        return _fwd(pooled, tensors[:levels], tensors[levels:], settings, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        pooled, ctx.settings, ctx.backend, *tensors = inputs
        y, z = output
        ctx.save_for_backward(y if ctx.settings.relu else None, z, pooled, *tensors)
        ctx.mark_non_differentiable(z)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        y, z, pooled, *tensors = ctx.saved_tensors
        how = ctx.settings, ctx.backend
        count = len(ctx.settings.cells)
        weights, vectors = tensors[:count], tensors[count:]
        for_pooled, _, _, *needs = ctx.needs_input_grad
        dz = as_cells(dy, cells_are_channels_last(pooled))
        dvectors: list[Tensor | None] = [None] * len(vectors)
        if ctx.settings.relu or any(v is not None for v in vectors):
            channels = [w.shape[0] for w in weights]
            dz, sums = _bwd_dz(dz, y, z, vectors, channels, *how)
            for i, vector in enumerate(vectors[: 2 * count]):
                if needs[count + i]:
                    first = sum(channels[: i % count])
                    dvectors[i] = sums[i // count, first : first + channels[i % count]].to(vector.dtype)
        dpooled = _bwd_dpooled(dz, weights, *how) if for_pooled else None
        dweights = _bwd_dweights(dz, pooled, weights, *how) if any(needs[:count]) else [None] * count
        return dpooled, None, None, *dweights, *dvectors


@register_op("pyramid_project_fwd")
def _fwd(
    pooled: Tensor, weights: list[Tensor], vectors: list[Tensor | None], settings: Settings, backend: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """The result, and the products before the affine where a gain needs its gradient (else empty)."""
    n, o, last = pooled.shape[0], sum(w.shape[0] for w in weights), cells_are_channels_last(pooled)
    y, z = (empty_cells(last, pooled, images, o, max(settings.cells)) for images in (n, n if settings.saved else 0))
    yield y, z
    OP.kernels(backend).forward(pooled, weights, _by_kind(vectors), y, z if settings.saved else None, settings)


def _by_kind(vectors: list[Tensor | None]) -> list[list[Tensor | None]]:
    count = len(vectors) // 4
    return [vectors[i * count : (i + 1) * count] for i in range(4)]


@register_op("pyramid_project_bwd_dz")
def _bwd_dz(
    dy: Tensor, y: Tensor | None, z: Tensor, vectors: list[Tensor | None], channels: Sizes, settings: Settings,
    backend: str,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """dz with the strides of dy, and row 0 dgain, row 1 dbias."""
    dz = torch.empty_strided(dy.shape, dy.stride(), dtype=dy.dtype, device=dy.device)
    sums = torch.empty((2, dy.shape[1]), dtype=accumulation(dy), device=dy.device)
    yield dz, sums
    saved = z if z.numel() else None
    OP.kernels(backend).backward_dz(dy, y, saved, _by_kind(vectors), dz, sums, channels, settings)


@register_op("pyramid_project_bwd_dpooled")
def _bwd_dpooled(dz: Tensor, weights: list[Tensor], settings: Settings, backend: str) -> Iterator[Tensor]:
    n, c, last = dz.shape[0], weights[0].shape[1], cells_are_channels_last(dz)
    dpooled = empty_cells(last, dz, n, c, sum(settings.cells))
    yield dpooled
    OP.kernels(backend).backward_dpooled(dz, weights, dpooled, settings)


@register_op("pyramid_project_bwd_dweights")
def _bwd_dweights(
    dz: Tensor, pooled: Tensor, weights: list[Tensor], settings: Settings, backend: str
) -> Iterator[list[Tensor]]:
    dweights = [torch.empty_like(w) for w in weights]
    yield dweights
    OP.kernels(backend).backward_dweights(dz, pooled, dweights, settings)
