"""Memory formats: every result has the format of x, and fakes use the same allocations as launchers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last if that is how the 4-D ``x`` is laid out (a slice of such a tensor counts), else contiguous."""
    if x.is_contiguous():
        return torch.contiguous_format
    channels = x.shape[1]
    # The stride of a dimension of size 1 says nothing.
    steps = [stride for stride, size in zip(x.stride()[2:], x.shape[2:], strict=True) if size > 1]
    inner = channels > 1 and x.stride(1) == 1 and all(step >= channels for step in steps)
    rows_outside = len(steps) < 2 or steps[0] >= steps[1]
    return torch.channels_last if inner and rows_outside else torch.contiguous_format


def format_of(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def is_channels_last(x: Tensor) -> bool:
    return memory_format(x) == torch.channels_last


def empty_map(x: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised (N, C, H, W) tensor in the memory format of ``x``."""
    return torch.empty(shape, dtype=dtype or x.dtype, device=x.device, memory_format=memory_format(x))


def placed(y: Tensor, x: Tensor) -> Tensor:
    """``y`` with exactly the strides of ``empty_map(x, y.shape)``; a copy only where it has others."""
    n, c, h, w = y.shape
    expected = (h * w * c, 1, w * c, c) if is_channels_last(x) else (c * h * w, h * w, w, 1)
    return y if y.stride() == expected else empty_map(x, y.shape, y.dtype).copy_(y)


def empty_cells(channels_last: bool, like: Tensor, n: int, c: int, s: int, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised (N, C, S) tensor; strides (S*C, 1, C) for channels_last, contiguous otherwise."""
    dtype = dtype or like.dtype
    if channels_last:
        return torch.empty((n, s, c), dtype=dtype, device=like.device).transpose(1, 2)
    return torch.empty((n, c, s), dtype=dtype, device=like.device)


def as_map(y: Tensor, x: Tensor) -> Tensor:
    """``y`` in the memory format of ``x`` (no copy where it already is)."""
    return y.contiguous(memory_format=memory_format(x))


def as_cells(y: Tensor, channels_last: bool) -> Tensor:
    """The (N, C, S) tensor ``y`` with the strides of ``empty_cells``."""
    return y.transpose(1, 2).contiguous().transpose(1, 2) if channels_last else y.contiguous()


def cells_are_channels_last(y: Tensor) -> bool:
    """Whether the (N, C, S) tensor ``y`` has channels innermost."""
    return True if y.stride(1) == 1 and not y.is_contiguous() else False  # traced, the comparison is no bool
