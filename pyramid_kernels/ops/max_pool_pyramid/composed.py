"""``max_pool_pyramid`` of passes along one axis, each level made of the one before.

Where a gradient is needed, PyTorch's own pools, in channels_last: on a CPU only that form of them is vectorised.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...backends import Problem
from .._shared.layout import is_channels_last
from .reference import concatenated, pooled
from .settings import Settings


def supports(problem: Problem) -> str | None:
    if problem.options[1] and problem.dtype in (torch.float16, torch.bfloat16):
        return "PyTorch's pools on a CPU add gradients up in half precision"
    return None


def pays(problem: Problem, sizes: tuple[int, ...]) -> str | None:
    """Measured on one core: for SPP a third of the time or less, for SPPF three quarters or less."""
    n, c, h, w = sizes
    if problem.options[1] and problem.channels_last:
        return "PyTorch's own channels_last pools are vectorised"
    return "too small a map" if n * c * h * w < 2**13 else None


def max_pool_pyramid(x: Tensor, settings: Settings) -> Tensor:
    if x.requires_grad and torch.is_grad_enabled():
        maps = pooled(x.contiguous(memory_format=torch.channels_last), settings)
        return concatenated(maps, x, settings)
    widen = _pool if is_channels_last(x) else _running
    maps, before = [x], 1
    for k in settings.kernel_sizes:
        maps.append(widen(maps[-1], k if settings.cascade else k - before + 1))
        before = k
    return concatenated(maps, x, settings)


def _pool(x: Tensor, k: int) -> Tensor:
    """The maxima of windows of k x k, along rows and then along columns."""
    return F.max_pool2d(F.max_pool2d(x, (1, k), 1, (0, k // 2)), (k, 1), 1, (k // 2, 0))


def _running(x: Tensor, k: int) -> Tensor:
    """``_pool`` by elementwise maxima of shifted maps, each of which doubles the window at most."""
    r = k // 2
    y = F.pad(x, (r, r, r, r), value=float("-inf"))
    for dim in (3, 2):
        width = 1
        while width < k:
            shift = min(width, k - width)
            length = y.shape[dim] - shift
            y = torch.maximum(y.narrow(dim, 0, length), y.narrow(dim, shift, length))
            width += shift
    return y
