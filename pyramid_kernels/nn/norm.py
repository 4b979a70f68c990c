"""BatchNorm as the ops take it: which norm modules they can stand for, in which mode, and the running statistics."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .kinds import TENSORS, class_name, why_not_kind

#: The ``norm`` argument of an op: (gamma, beta, mean, var, eps) of an eval-mode BatchNorm.
EvalNorm = tuple[Tensor | None, Tensor | None, Tensor, Tensor, float]


#: The checks of BatchNorms that refuse a batch of maps.
_REFUSE_MAPS = tuple(cls._check_input_dim for cls in (nn.BatchNorm1d, nn.BatchNorm3d, _BatchNorm))
#: What every module holds; the rest of its attributes are settings of its own.
_MODULE = frozenset(vars(nn.Module()))
#: Whether classes that are no BatchNorm, with these settings, compute one of constants all the same.
_frozen: dict[tuple[Any, ...], bool] = {}


def why_not(norm: nn.Module | None) -> str | None:
    """Why the ops cannot stand for ``norm``, "is a ..."; None for Identity and for what computes a BatchNorm of maps.

    That is BatchNorm2d, SyncBatchNorm, any class that keeps the forward of one, whatever its checks of the input, and
    any class of frozen buffers that gives what a BatchNorm gives in eval mode.
    """
    if isinstance(norm, nn.Identity):
        return why_not_kind(norm, nn.Identity)
    if isinstance(norm, _BatchNorm):
        if type(norm)._check_input_dim in _REFUSE_MAPS:
            return f"is a {class_name(norm)}, which takes no maps"
        return why_not_kind(norm, nn.SyncBatchNorm if isinstance(norm, nn.SyncBatchNorm) else _BatchNorm)
    if norm is None or not is_frozen(norm):
        return f"is a {class_name(norm)}, not a BatchNorm that the kernels know"
    return None


def is_frozen(norm: Any) -> bool:
    """Whether ``norm``, of whichever library, is a BatchNorm of constants: its buffers, and what a run of it gives."""
    buffers = {name for name, value in norm._buffers.items() if value is not None}
    if norm._parameters or norm._modules or buffers - {"num_batches_tracked"} != set(TENSORS):
        return False
    settings = {name: value for name, value in vars(norm).items() if name not in _MODULE}
    if not isinstance(settings.get("eps"), float) or not all(isinstance(v, int | float) for v in settings.values()):
        return False
    key = (type(norm), *settings.items())
    if key not in _frozen:
        _frozen[key] = _computes_constants(norm)
    return _frozen[key]


def _computes_constants(norm: Any) -> bool:
    """Whether a copy of ``norm`` with other values gives in both modes what BatchNorm gives in eval mode."""
    generator = torch.Generator().manual_seed(0)
    channels = len(norm.running_mean)
    with torch.utils._python_dispatch._disable_current_modes(), torch.enable_grad():
        x = torch.randn(2, channels, 3, 2, dtype=torch.float64, device="cpu", generator=generator, requires_grad=True)
        values = [torch.randn(channels, dtype=torch.float64, device="cpu", generator=generator) for _ in TENSORS]
        weight, bias, mean, var = (*values[:3], values[3].exp())
        expected = F.batch_norm(x, mean, var, weight, bias, eps=norm.eps)
        twin = copy.copy(norm)
        vars(twin)["_buffers"] = dict(zip(TENSORS, (weight, bias, mean, var), strict=True))
        try:
            found = [type(norm).forward(twin.train(mode), m) for mode in (False, True) for m in (x, x.detach())]
            return all(torch.allclose(y, expected, rtol=1e-9, atol=1e-9) for y in found)
        except Exception:  # its forward is anybody's code, and may take or raise anything
            return False


def synchronises(norm: nn.Module) -> bool:
    """Whether ``norm`` would take its statistics from other ranks as well."""
    if not (isinstance(norm, nn.SyncBatchNorm) and norm.training):
        return False
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def uses_batch(norm: nn.Module) -> bool:
    """Whether ``norm`` normalises with the batch's own statistics: its own mode decides, not its parent's."""
    return isinstance(norm, _BatchNorm) and (norm.training or norm.running_mean is None)


def as_norm(norm: Any) -> EvalNorm | None:
    """An eval-mode BatchNorm; None for Identity."""
    if isinstance(norm, nn.Identity):
        return None
    return norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps


def as_eval(norm: Any, conv: nn.Conv2d) -> EvalNorm:
    """What follows ``conv`` as an eval-mode BatchNorm; for Identity an exact one that only adds conv's bias."""
    known = as_norm(norm)
    if known is not None:
        return known
    mean = torch.zeros_like(conv.weight[:, 0, 0, 0])
    return None, conv.bias, mean, torch.ones_like(mean), 0.0


def as_affine(norm: Any) -> tuple[Tensor | None, Tensor | None]:
    """An eval-mode BatchNorm as (scale, shift) per channel, in float32 at least; (None, None) for Identity."""
    known = as_norm(norm)
    return (None, None) if known is None else affine_of(*known)


def affine_of(
    gamma: Tensor | None, beta: Tensor | None, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """(scale, shift) per channel of a norm of constants, in float32 at least."""
    scale = (var.to(torch.promote_types(mean.dtype, torch.float32)) + eps).rsqrt()
    scale = scale if gamma is None else scale * gamma
    return scale, -mean * scale if beta is None else torch.addcmul(beta, mean, scale, value=-1)


class _Passed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.save_for_backward(y.new_empty(0))
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy


def passed(y: Tensor) -> Tensor:
    """``y``, so that what ran before is part of a checkpoint's second run.

    That run ends with the last tensor that it saves, and a BatchNorm's update is part of what it saves one in.
    """
    hooks = not torch.compiler.is_compiling() and torch._C._autograd._top_saved_tensors_default_hooks(True)
    return _Passed.apply(y) if hooks and y.requires_grad else y


@torch.no_grad()
def track(norm: Any, mean: Tensor, var: Tensor, count: int) -> None:
    """Update the running statistics of ``norm`` as its forward does; ``var`` is biased, over ``count`` values."""
    if not (norm.training and norm.track_running_stats):
        return
    share = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if share is None:
            share = norm.num_batches_tracked.to(mean.dtype).reciprocal()
    if share is None:
        share = 0.0
    average(norm.running_mean, norm.running_var, mean, var, count, share)


@torch.no_grad()
def average(
    running_mean: Tensor | None, running_var: Tensor | None, mean: Tensor, var: Tensor, count: int, share: Any
) -> None:
    """Take a ``share`` of a batch's statistics over into running ones; ``var`` is biased, over ``count`` values."""
    for running, batch in ((running_mean, mean), (running_var, var * (count / (count - 1)))):
        if running is not None:
            # Averaged in the wider of both dtypes, and then rounded to that of a half-precision module.
            running.copy_(running.to(batch.dtype).lerp(batch, share))
