"""``freeze_`` and ``unfreeze_``: what fused modules derive from their weights is kept between calls."""

from __future__ import annotations

from torch import nn

from ..nn.base import Fused
from ..ops._shared.constants import Constants


def freeze_(model: nn.Module) -> list[str]:
    """Say that ``model`` is for inference: its fused modules keep what they derive from their weights.

    3x3 weights repacked for the kernels, norms folded and levels composed are made at the first call, and again where a
    weight changed since by what PyTorch counts: ``copy_``, ``load_state_dict`` and ``to`` are seen, a write through
    ``.data`` is not. Parameters and ``state_dict`` stay as they are. A call that needs a gradient of a parameter, and
    one inside torch.compile, derives anew.

    Args:
        model: any module; it is searched with all its descendants.

    Returns:
        The paths of the fused modules, which are all that is changed. Their forward in training mode then raises
        RuntimeError. ``unfreeze_`` undoes it.
    """
    return [path for path, module in _fused(model) if vars(module).setdefault("frozen_constants", Constants())]


def unfreeze_(model: nn.Module) -> list[str]:
    """Undo ``freeze_`` and return the paths of those it had frozen."""
    return [path for path, module in _fused(model) if vars(module).pop("frozen_constants", None)]


def _fused(model: nn.Module) -> list[tuple[str, nn.Module]]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    return [(path, module) for path, module in model.named_modules() if isinstance(module, Fused)]
