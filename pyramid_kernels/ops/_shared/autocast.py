"""What each op does inside ``torch.autocast``: ops with weights cast, those of several maps promote."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from .shortcuts import cast


def autocast(x: Tensor, *tensors: Tensor | None) -> tuple[Any, ...]:
    """``x`` and ``tensors`` in the autocast dtype of x's device, as PyTorch's convolutions take them.

    Unchanged outside autocast; float64 tensors and None stay as they are.
    """
    if not _is_on(x):
        return (x, *tensors)
    dtype = torch.get_autocast_dtype(x.device.type)
    return tuple(t if t is None or t.dtype == torch.float64 else cast(t, dtype) for t in (x, *tensors))


def promoted(maps: Sequence[Tensor]) -> list[Tensor]:
    """``maps`` in their common dtype inside autocast, as ``torch.cat`` promotes there; unchanged outside."""
    if not _is_on(maps[0]):
        return list(maps)
    dtype = reduce(torch.promote_types, (m.dtype for m in maps))
    return [cast(m, dtype) for m in maps]


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """What switches autocast off for the device of ``x``."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def _is_on(x: Tensor) -> bool:
    """Whether autocast is on for x's device: never for meta, which PyTorch's autocast refuses to hear of."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)
