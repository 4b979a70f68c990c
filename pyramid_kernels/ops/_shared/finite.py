"""For forms that multiply by zeros: exact where all is finite, wrong places for NaN and infinity otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from .precision import accumulation

Chain = Callable[..., Tensor]


def can_read(x: Tensor) -> bool:
    """Whether a decision may look at the values of ``x``: it has some, and nothing records the calls to repeat them."""
    if torch.compiler.is_compiling() or x.is_meta or isinstance(x, FakeTensor):
        return False
    recorded = x.is_cuda and torch.cuda.is_current_stream_capturing()
    return not (recorded or torch._C._are_functorch_transforms_active())


def is_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all values are finite, where they can be read; a sum is, one pass, if its terms are."""
    sums = (t.sum(dtype=accumulation(t)) for t in tensors if can_read(t))
    return all(bool(s.isfinite()) for s in sums)


def guarded(y: Tensor, chain: Chain, *tensors: Tensor | None) -> Tensor:
    """``y``, in place: a gradient that is not finite goes around what made it, through ``chain(*tensors)``."""
    return _Guarded.apply(y, chain, *tensors) if can_read(y) and torch.is_grad_enabled() and y.requires_grad else y


class _Guarded(torch.autograd.Function):
    @staticmethod
    def forward(y: Tensor, chain: Chain, *tensors: Tensor | None) -> Tensor:
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        y, ctx.chain, *tensors = inputs
        ctx.mark_dirty(y)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        if is_finite([dy]):
            return dy, None, *[None] * len(tensors)
        wanted = [t for t, w in zip(tensors, ctx.needs_input_grad[2:], strict=True) if w]
        with torch.enable_grad():
            y = ctx.chain(*tensors)
        found = iter(torch.autograd.grad(y, wanted, dy.to(y.dtype), create_graph=torch.is_grad_enabled()))
        return None, None, *(next(found) if w else None for w in ctx.needs_input_grad[2:])
