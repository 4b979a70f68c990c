"""What stands in a rewritten graph: the public ops behind the shapes that patterns find.

Functions of a module, so that a recompiled or pickled graph names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import functional
from ..backends import Backend
from ..nn.norm import affine_of, average, passed
from ..ops._shared.affine import Norm


class Size(NamedTuple):
    """Where maps meet: at ``given`` (rows, columns), at the size of map ``like``, or at a multiple of its size."""

    given: Any = None
    like: int | None = None
    factors: tuple[float, float] | None = None

    def of(self, maps: Sequence[Tensor]) -> tuple[int, int]:
        rows, columns = self.given if self.like is None else maps[self.like].shape[2:]
        if self.factors is None:
            return rows, columns
        by, across = self.factors
        return _times(rows, by), _times(columns, across)


def _times(extent: int, factor: float) -> int:
    return extent * int(factor) if factor == int(factor) else int(extent * factor)


class BatchNorm(NamedTuple):
    """A norm as ``torch.nn.functional.batch_norm`` takes it, and the bias of the convolution in front of it."""

    gamma: Any
    beta: Any
    mean: Any
    var: Any
    momentum: float
    eps: float
    bias: Any

    def as_eval(self) -> Norm:
        """The norm of constants that also adds the bias; its mean takes no gradient, so beta takes the bias in."""
        beta = self.beta
        if self.bias is not None:
            through = self.bias * (self.var + self.eps).rsqrt()
            through = through if self.gamma is None else through * self.gamma
            beta = through if beta is None else beta + through
        return self.gamma, beta, self.mean, self.var, self.eps

    def beta_in_training(self) -> Tensor | None:
        """A bias in front of a training norm changes nothing and has a gradient all the same: zeros."""
        if self.bias is None:
            return self.beta
        return self.bias * 0 if self.beta is None else self.beta + self.bias * 0

    def track(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Update the running statistics by those of a batch of ``count`` values per channel."""
        average(
            self.mean, self.var, mean if self.bias is None else mean + self.bias.detach(), var, count, self.momentum
        )


def activation(relu: bool) -> str | None:
    return "relu" if relu else None


def behind(biases: Sequence[Tensor | None], norms: Sequence[BatchNorm] | None) -> dict[str, Any]:
    """The epilogue of convolutions: norms of constants, which take the biases in, or the biases alone."""
    if norms is not None:
        return {"norm": [n.as_eval() for n in norms]}
    return {"shift": biases} if any(b is not None for b in biases) else {}


def formatted(y: Tensor, channels_last: bool) -> Tensor:
    """A copy of ``y`` in the memory format that the replaced nodes gave it."""
    return y.clone(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def slice_of(y: Tensor, first: int, count: int) -> Tensor:
    """Some channels of a concat, a view."""
    return y.narrow(1, first, count)


def branches(
    x: Tensor,
    weights: Sequence[Tensor],
    dilations: Sequence[int],
    biases: Sequence[Tensor | None],
    norms: Sequence[BatchNorm] | None,
    relu: bool,
    backend: Backend,
    image_bias: Tensor | None = None,
) -> Tensor:
    """Branches side by side, with norms of constants, which hold the biases, or none."""
    return functional.dilated_branches(
        x, weights, dilations=dilations, activation=activation(relu), image_bias=image_bias, backend=backend,
        **behind(biases, norms),
    )  # fmt: skip


def branches_train(
    x: Tensor,
    weights: Sequence[Tensor],
    dilations: Sequence[int],
    norms: Sequence[BatchNorm],
    relu: bool,
    backend: Backend,
    image_bias: Tensor | None = None,
) -> Tensor:
    """Branches whose norms take the batch's statistics, and keep them."""
    y, mean, var = functional.dilated_branches_train(
        x, weights, dilations=dilations, gamma=[n.gamma for n in norms], beta=[n.beta_in_training() for n in norms],
        eps=[n.eps for n in norms], activation=activation(relu), image_bias=image_bias, backend=backend,
    )  # fmt: skip
    widths = [w.shape[0] for w in weights]
    for norm, m, v in zip(norms, mean.split(widths), var.split(widths), strict=True):
        norm.track(m, v, x.shape[0] * x.shape[2] * x.shape[3])
    return passed(y)


def with_image(
    maps: Sequence[Tensor],
    image: Tensor,
    start: int,
    weight: Tensor,
    bias: Tensor | None,
    norm: BatchNorm | None,
    trained: bool,
    relu: bool,
    backend: Backend,
) -> Tensor:
    """One convolution of maps and of one pixel per image, spread over the map: its channels begin at ``start``.

    A constant per image meets a convolution's taps as another bias.
    """
    before, own, behind_it = weight.split([start, image.shape[1], weight.shape[1] - start - image.shape[1]], 1)
    rest = before if behind_it.shape[1] == 0 else behind_it if start == 0 else torch.cat([before, behind_it], 1)
    image_bias = torch.einsum("np,opk->nok", image.flatten(1), own.flatten(2))
    x = maps[0] if len(maps) == 1 else torch.cat(list(maps), 1)
    if norm is not None and trained:
        return branches_train(x, [rest], [1], [norm], relu, backend, image_bias)
    return branches(x, [rest], [1], [bias], None if norm is None else [norm], relu, backend, image_bias)


def mixed(
    maps: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    layers: Sequence[Any] | None,
    size: Size,
    mode: str,
    align_corners: bool,
    norm: BatchNorm | None,
    relu: bool,
    backend: Backend,
) -> Tensor:
    """One convolution of all maps; ``layers`` are (weight, bias) of 1x1s to multiply into it, or None for a map."""
    if layers is not None:
        pairs = [layer or (None, None) for layer in layers]
        weight, bias = functional.compose_levels(weight, [w for w, _ in pairs], [b for _, b in pairs], bias)
    scale, shift = (None, None) if norm is None else affine_of(*norm[:4], norm.eps)
    return functional.pyramid_conv(
        maps, weight, bias, size=size.of(maps), mode=mode, align_corners=align_corners, scale=scale, shift=shift,
        activation=activation(relu), backend=backend,
    )  # fmt: skip


def merged(
    maps: Sequence[Tensor],
    size: Size,
    mode: str,
    align_corners: bool,
    merge: str,
    relu: bool,
    weights: Sequence[Any] | None,
    backend: Backend,
) -> Tensor:
    """Maps of several sizes summed, each times its weight or as it is, averaged, or concatenated."""
    meet = size.of(maps)
    if weights is not None:
        maps = [m if weight is None else m * weight for m, weight in zip(maps, weights, strict=True)]
    y = functional.upsample_merge(
        maps, meet, mode=mode, align_corners=align_corners, merge="concat" if merge == "concat" else "sum",
        activation=activation(relu), backend=backend,
    )  # fmt: skip
    return y / len(maps) if merge == "mean" else y


def levels(x: Tensor, grids: Sequence[tuple[int, int]], mode: str, backend: Backend) -> tuple[Tensor, ...]:
    """``x`` pooled to every grid."""
    packed = functional.pyramid_pool(x, grids, mode=mode, backend=backend)
    parts = packed.split([rows * columns for rows, columns in grids], 2)
    return tuple(part.unflatten(2, grid) for part, grid in zip(parts, grids, strict=True))


def projected(
    x: Tensor,
    grids: Sequence[tuple[int, int]],
    mode: str,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    norms: Sequence[BatchNorm] | None,
    relu: bool,
    backend: Backend,
) -> tuple[Tensor, ...]:
    """``x`` pooled to every grid, each level through its own 1x1, with norms of constants or none."""
    pooled = functional.pyramid_pool(x, grids, mode=mode, backend=backend)
    packed = functional.pyramid_project(
        pooled, grids, weights, activation=activation(relu), backend=backend,
        **behind(biases, norms),
    )  # fmt: skip
    return tuple(functional.pyramid_levels(packed, grids, [w.shape[0] for w in weights]))


def max_pools(
    x: Tensor, kernel_sizes: Sequence[int], cascade: bool, places: Sequence[int] | None, backend: Backend
) -> Tensor:
    """``x`` and its max pools side by side; ``places`` says which comes where, if not x first and ascending."""
    count = len(kernel_sizes)
    descending = places is not None and list(places) == list(range(count, -1, -1))
    y = functional.max_pool_pyramid(
        x, kernel_sizes, cascade=cascade, order="descending" if descending else "ascending", backend=backend
    )
    if places is None or descending:
        return y
    parts = y.split(x.shape[1], 1)
    return torch.cat([parts[place] for place in places], 1)


def gate(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    norm: BatchNorm | None,
    hidden_activation: str | None,
    weight2: Tensor | None,
    bias2: Tensor | None,
    gate_activation: str,
    residual: bool,
    backend: Backend,
) -> Tensor:
    """``x`` times a gate of its own means."""
    return functional.channel_gate(
        x, weight1, bias1, weight2, bias2, norm1=None if norm is None else (*norm[:4], norm.eps),
        hidden_activation=hidden_activation, gate_activation=gate_activation, residual=residual, backend=backend,
    )  # fmt: skip


def loss(
    logits: Tensor,
    target: Tensor,
    align_corners: bool,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
    backend: Backend,
) -> Tensor:
    """Cross-entropy of upsampled logits."""
    return functional.upsample_cross_entropy(
        logits, target, align_corners=align_corners, weight=weight, ignore_index=ignore_index,
        label_smoothing=label_smoothing, reduction=reduction, backend=backend,
    )  # fmt: skip


def labels(logits: Tensor, size: Size, align_corners: bool, keepdim: bool, backend: Backend) -> Tensor:
    """The largest class of every pixel of upsampled logits."""
    y = functional.upsample_argmax(
        logits, size.of([logits]), align_corners=align_corners, dtype=torch.int64, backend=backend
    )
    return y.unsqueeze(1) if keepdim else y
