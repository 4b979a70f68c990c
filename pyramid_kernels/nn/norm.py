"""BatchNorm as the ops take it: which norm modules they can stand for, in which mode, and the running statistics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

#: The ``norm`` argument of an op: (gamma, beta, mean, var, eps) of an eval-mode BatchNorm.
EvalNorm = tuple[Tensor | None, Tensor | None, Tensor, Tensor, float]


def why_not(norm: nn.Module) -> str | None:
    """Why the ops cannot stand for ``norm``; None for BatchNorm2d, SyncBatchNorm, FrozenBatchNorm2d and Identity."""
    known = type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm, nn.Identity) or is_frozen(norm)
    return None if known else f"{class_name(norm)} is not a BatchNorm the kernels know"


def class_name(module: object) -> str:
    """Its class as a message names it: in full where it only shares the name of one of PyTorch's, as in QAT."""
    cls = type(module)
    shared = getattr(nn, cls.__name__, cls) is not cls
    return f"{cls.__module__}.{cls.__qualname__}" if shared else cls.__name__


def is_frozen(norm: nn.Module) -> bool:
    """Whether ``norm`` is torchvision's FrozenBatchNorm2d, told by name so that torchvision need not be imported."""
    cls = type(norm)
    return cls.__name__ == "FrozenBatchNorm2d" and cls.__module__.startswith("torchvision.ops")


def synchronises(norm: nn.Module) -> bool:
    """Whether ``norm`` would take its statistics from other ranks as well."""
    if not (isinstance(norm, nn.SyncBatchNorm) and norm.training):
        return False
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def uses_batch(norm: nn.Module) -> bool:
    """Whether ``norm`` normalises with the batch's own statistics: its own mode decides, not its parent's."""
    if isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm):
        return norm.training or norm.running_mean is None
    return False


def as_eval(norm: Any, conv: nn.Conv2d) -> EvalNorm:
    """What follows ``conv`` as an eval-mode BatchNorm; for Identity an exact one that only adds conv's bias."""
    if isinstance(norm, nn.Identity):
        mean = torch.zeros_like(conv.weight[:, 0, 0, 0])
        return None, conv.bias, mean, torch.ones_like(mean), 0.0
    return norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps


def as_affine(norm: Any) -> tuple[Tensor | None, Tensor | None]:
    """An eval-mode BatchNorm as (scale, shift) per channel, in float32 at least; (None, None) for Identity."""
    if isinstance(norm, nn.Identity):
        return None, None
    wide = torch.promote_types(norm.running_mean.dtype, torch.float32)
    scale = (norm.running_var.to(wide) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.to(wide)
    shift = -norm.running_mean.to(wide) * scale
    return scale, shift if norm.bias is None else shift + norm.bias.to(wide)


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
    for running, batch in ((norm.running_mean, mean), (norm.running_var, var * (count / (count - 1)))):
        # Averaged in the wider of both dtypes, and then rounded to that of a half-precision module.
        running.copy_(running.to(batch.dtype).lerp(batch, share))
