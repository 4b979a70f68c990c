"""``dilated_branches_train``: dilated branches followed by BatchNorm with this batch's statistics, in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...backends import Backend, Calls, Op, describe, select
from ...registration import OpFunction, public, register_op
from .._shared.affine import ACTIVATIONS, dense_vectors
from .._shared.checks import check_choice, check_length, check_vector
from .._shared.layout import empty_map, is_channels_last
from ..dilated_branches import chain
from ..dilated_branches.op import CHUNK, check_branches, empty_gradients, in_order, sizes_of, split
from ..dilated_branches.op import OP as BRANCHES
from ..dilated_branches.settings import Settings
from . import composed, reference

OP = Op("dilated_branches_train", "gemm", reference, composed)


def _problems(x: Tensor, weights: Sequence[Tensor], *, dilations: Sequence[int], **_: Any) -> Calls:
    return [(OP, describe(x, is_channels_last(x)), sizes_of(x, weights, dilations))]


@public(_problems)
def dilated_branches_train(
    x: Tensor,
    weights: Sequence[Tensor],
    *,
    dilations: Sequence[int],
    gamma: Sequence[Tensor | None],
    beta: Sequence[Tensor | None],
    eps: Sequence[float],
    activation: str | None = None,
    image_bias: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Convolve ``x`` with every branch, normalise each output channel over the batch, activate, concatenate.

    Equivalent to ``cat([act(batch_norm(conv2d(x, w_i, ...), training=True)) for ...], 1)`` and the statistics used.
    Saves the pre-normalisation outputs and two values per channel, nothing else of the map's size.

    Args:
        x, weights, dilations, activation, image_bias, backend: as in ``dilated_branches``.
        gamma, beta: one (O_i,) tensor or None per branch, float32 or x's dtype.
        eps: one float per branch.

    Returns:
        y (N, sum O_i, H, W) in x's dtype and memory format; mean and biased variance, (sum O_i,), float32 (float64 for
        float64), for running statistics: not differentiable.

    Raises:
        ValueError: "Expected more than 1 value per channel when training, ...", as PyTorch, for N*H*W = 1; others name
            the argument. TypeError, BackendError likewise.

    Source: Ioffe and Szegedy, Batch Normalization, 2015, as torchvision's ASPP applies it.
    """
    x, weights, image_bias = check_branches(x, weights, dilations, image_bias)
    check_choice("activation", activation, ACTIVATIONS)
    for name, vectors in (("gamma", gamma), ("beta", beta)):
        check_length(name, vectors, len(weights), "branch")
        for i, (t, w) in enumerate(zip(vectors, weights, strict=True)):
            if t is not None:
                check_vector(f"{name}[{i}]", t, w.shape[0], x)
    check_length("eps", eps, len(weights), "branch")
    if x.shape[0] * x.shape[2] * x.shape[3] == 1:
        size = torch.Size((1, weights[0].shape[0], 1, 1))
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {size}")
    settings = Settings([int(d) for d in dilations], [float(e) for e in eps], activation == "relu")
    backend = select(*_problems(x, weights, dilations=dilations)[0], backend)
    if backend in ("reference", "composed"):
        return OP.python(backend)(x, weights, gamma, beta, image_bias, settings)
    chunks = []
    for i in range(0, len(weights), CHUNK):
        part = slice(i, i + CHUNK)
        affine = [t for a, b in zip(gamma[part], beta[part], strict=True) for t in dense_vectors(a, b, None, None)]
        own = settings._replace(dilations=settings.dilations[part], eps=settings.eps[part])
        chunks.append(DilatedBranchesTrain.run(x, image_bias, own, backend, *weights[part], *affine))
    if len(chunks) > 1:
        y, _, mean, var = (torch.cat(parts, 1 if parts[0].dim() == 4 else 0) for parts in zip(*chunks, strict=True))
        return y, mean, var
    y, _, mean, var = chunks[0]
    return y, mean, var


class DilatedBranchesTrain(OpFunction):
    """Inputs and order of results as ``DilatedBranches``; results: y, pre-normalisation z, mean, variance."""

    op_name = "dilated_branches_train"

    @staticmethod
    def forward(
        x: Tensor, image_bias: Tensor | None, settings: Settings, backend: str, *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        branches = len(settings.dilations)
        return _fwd(x, tensors[:branches], tensors[branches:], image_bias, settings, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, _, ctx.settings, ctx.backend, *tensors = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, *output[1:], *tensors)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, z, mean, var, *tensors = ctx.saved_tensors
        weights, affine, needs = split(ctx, tensors)
        found = _bwd(dy, x, weights, affine, needs, z, mean, var, ctx.settings, ctx.backend)
        return in_order(found, weights, affine, needs)


@register_op("dilated_branches_train_fwd")
def _fwd(
    x: Tensor, weights: list[Tensor], affine: list[Tensor | None], image_bias: Tensor | None, settings: Settings,
    backend: str,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:  # fmt: skip
    """The result in x's memory format, the channels_last pre-normalisation outputs, and their statistics."""
    n, _, h, w = x.shape
    shape = (n, sum(weight.shape[0] for weight in weights), h, w)
    y, z = empty_map(x, shape), chain.empty_dz(x, shape[1])
    mean, var = (torch.empty(shape[1], dtype=torch.float32, device=x.device) for _ in range(2))
    yield y, z, mean, var
    kernels, branches = OP.kernels(backend), BRANCHES.kernels(backend)
    part = torch.empty((branches.pixel_tiles(z), 3, z.shape[1]), dtype=torch.float32, device=x.device)
    chain.forward(branches, x, weights, affine, image_bias, None, z, part, settings)
    kernels.launch_statistics(part, mean, var, z)
    kernels.launch_normalise(z, weights, _with_statistics(weights, affine, mean, var), y, settings)


@register_op("dilated_branches_train_bwd")
def _bwd(
    dy: Tensor, x: Tensor, weights: list[Tensor], affine: list[Tensor | None], needs: list[bool], z: Tensor,
    mean: Tensor, var: Tensor, settings: Settings, backend: str,
) -> Iterator[tuple[Tensor, list[Tensor], Tensor, Tensor]]:  # fmt: skip
    dx, dweights, dvectors, dimage = empty_gradients(x, weights, needs)
    yield dx, dweights, dvectors, dimage
    branches = BRANCHES.kernels(backend)
    affine = _with_statistics(weights, affine, mean, var)
    dz = chain.empty_dz(x, z.shape[1])
    part = chain.empty_part(dz)
    # dz depends on both sums, which are therefore always formed.
    sums = dvectors if needs[2] else torch.empty((2, z.shape[1]), dtype=torch.float32, device=x.device)
    branches.launch_dz(dy, z, weights, affine, None, None, part, settings)
    branches.launch_sums(part, sums)
    branches.launch_dz(dy, z, weights, affine, sums, dz, None, settings)
    chain.gradients(branches, dz, x, weights, dx, dweights, dimage, needs, settings)


def _with_statistics(
    weights: list[Tensor], affine: list[Tensor | None], mean: Tensor, var: Tensor
) -> list[Tensor | None]:
    """Per branch (gamma, beta, mean, variance): views of the batch's statistics in the two free places."""
    channels = [w.shape[0] for w in weights]
    four: list[Tensor | None] = []
    for b, (m, v) in enumerate(zip(mean.split(channels), var.split(channels), strict=True)):
        four += [affine[4 * b], affine[4 * b + 1], m, v]
    return four
