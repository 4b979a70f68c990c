"""Argument errors: each names the argument, what was got, what is expected, and the fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_map(name: str, x: Any) -> None:
    """``x`` is a floating (N, C, H, W) tensor whose C, H and W are at least 1 (N may be 0)."""
    check_floating(name, x)
    if x.dim() != 4:
        hint = f"; add a batch dimension with {name}.unsqueeze(0) if it is one (C, H, W) map" if x.dim() == 3 else ""
        raise ValueError(f"{name} must be 4-D (N, C, H, W), got {x.dim()}-D {tuple(x.shape)}{hint}")
    if 0 in x.shape[1:]:
        raise ValueError(f"{name} must have C, H and W of at least 1, got {tuple(x.shape)}; only N may be 0")


def check_floating(name: str, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in FLOATS:
        raise TypeError(
            f"{name} must be float16, bfloat16, float32 or float64, got {x.dtype}; convert it with {name}.float() and "
            "scale it: an image to 0..1, then normalised with the mean and std that the model was trained with; "
            "quantised values by their scale"
        )


def check_like(name: str, t: Tensor, other_name: str, other: Tensor, dtype: bool = True) -> None:
    """``t`` is on the device of ``other`` and, unless ``dtype`` is False, of its dtype."""
    if t.device != other.device:
        raise ValueError(
            f"{name} must be on the device of {other_name}, got {t.device} and {other.device}; "
            f"move it with {name}.to({other_name}.device)"
        )
    if dtype and t.dtype != other.dtype:
        raise TypeError(
            f"{name} must have the dtype of {other_name}, got {t.dtype} and {other.dtype}; "
            f"convert it with {name}.to({other_name}.dtype)"
        )


def check_vector(name: str, t: Any, length: int, x: Tensor, per: str = "output channel", beside: str = "x") -> None:
    """``t`` is a (length,) tensor, one value per ``per``, in float32 or the dtype of ``x``, called ``beside``."""
    check_floating(name, t)
    if tuple(t.shape) != (length,):
        raise ValueError(f"{name} must have shape ({length},), one value per {per}, got {tuple(t.shape)}")
    check_like(name, t, beside, x, dtype=False)
    if t.dtype not in (torch.float32, x.dtype):
        raise TypeError(f"{name} must be float32 or have the dtype of {beside} ({x.dtype}), got {t.dtype}")


def check_size(size: Any, expected: str = "(H, W)") -> tuple[int, int]:
    """``size`` is a pair of positive ints."""
    if not isinstance(size, list | tuple) or len(size) != 2:
        raise TypeError(f"size must be {expected}, got {size!r}")
    if not all(isinstance(v, int | torch.SymInt) and not isinstance(v, bool) for v in size):
        raise TypeError(f"size must hold two ints, got {size!r}")
    if size[0] < 1 or size[1] < 1:
        raise ValueError(f"size must be positive, got {tuple(size)}")
    return size[0], size[1]


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_length(name: str, items: Any, expected: int, per: str) -> None:
    """``items`` is a list or tuple with one entry per ``per``."""
    if not isinstance(items, list | tuple):
        raise TypeError(f"{name} must be a list or tuple, one entry per {per}, got {type(items).__name__}")
    if len(items) != expected:
        raise ValueError(f"{name} must have one entry per {per} ({expected}), got {len(items)}")


def pairs(name: str, bins: Any) -> list[tuple[int, int]]:
    """``bins`` (each an int or (rows, cols)) as a non-empty list of positive pairs."""
    if not isinstance(bins, list | tuple):
        raise TypeError(f"{name} must be a list or tuple of ints or (rows, cols) pairs, got {type(bins).__name__}")
    if not bins:
        raise ValueError(f"{name} must not be empty; give at least one bin, such as (1, 2, 3, 6)")
    result = []
    for item in bins:
        pair = tuple(item) if isinstance(item, list | tuple) else (item, item)
        if len(pair) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) for v in pair):
            raise TypeError(f"{name} must hold ints or (rows, cols) pairs of ints, got {item!r}")
        if min(pair) < 1:
            raise ValueError(f"{name} must be positive, got {item!r}")
        result.append(pair)
    return result
