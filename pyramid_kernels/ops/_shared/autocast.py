"""What each op does inside ``torch.autocast``: ops with weights cast, those of several maps promote."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor


def autocast(x: Tensor, *tensors: Tensor | None) -> tuple[Any, ...]:
    """``x`` and ``tensors`` in the autocast dtype of x's device, as PyTorch's convolutions take them.

    Unchanged outside autocast; float64 tensors and None stay as they are.
    """
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return (x, *tensors)
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in (x, *tensors))


def promoted(maps: Sequence[Tensor]) -> list[Tensor]:
    """``maps`` in their common dtype inside autocast, as ``torch.cat`` promotes there; unchanged outside."""
    if not torch.is_autocast_enabled(maps[0].device.type):
        return list(maps)
    dtype = reduce(torch.promote_types, (m.dtype for m in maps))
    return [m.to(dtype) for m in maps]
