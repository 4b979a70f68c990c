"""The arguments of ``upsample_cross_entropy``; labels too where they can be read without waiting for a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from .._shared.checks import check_choice, check_like, check_map, check_vector

LABELS = (torch.int64, torch.int32, torch.int16, torch.uint8)
REDUCTIONS = ("mean", "sum", "none")


def check_arguments(
    logits: Any, target: Any, weight: Any, ignore_index: Any, label_smoothing: Any, reduction: Any
) -> None:
    check_map("logits", logits)
    check_target(target, logits)
    if weight is not None:
        check_vector("weight", weight, logits.shape[1], logits, per="class", beside="logits")
    if not isinstance(ignore_index, int) or isinstance(ignore_index, bool):
        raise TypeError(f"ignore_index must be an int, got {ignore_index!r}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing!r}")
    check_choice("reduction", reduction, REDUCTIONS)


def check_target(target: Any, logits: Tensor) -> None:
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a torch.Tensor, got {type(target).__name__}")
    if target.dtype not in LABELS:
        raise TypeError(
            f"target must hold class indices in int64, int32, int16 or uint8, got {target.dtype}; class probabilities "
            "are not supported, convert indices with target.long()"
        )
    if target.dim() != 3:
        hint = "; drop its channel with target.squeeze(1)" if target.dim() == 4 else ""
        raise ValueError(f"target must be 3-D (N, H, W), got {target.dim()}-D {tuple(target.shape)}{hint}")
    if target.shape[0] != logits.shape[0]:
        raise ValueError(
            f"target must have the N of logits, got {tuple(target.shape)} and {tuple(logits.shape)}; one map of labels "
            "per image"
        )
    if 0 in target.shape[1:]:
        raise ValueError(f"target must have H and W of at least 1, got {tuple(target.shape)}; only N may be 0")
    check_like("target", target, "logits", logits, dtype=False)


def check_labels(target: Tensor, classes: int, ignore_index: int) -> None:
    """Every label of a CPU's target (N, H, W) is a class or ignored; IndexError for the first that is not."""
    if target.device.type != "cpu" or isinstance(target, FakeTensor) or not target.numel():
        return
    if _are_classes(target, classes):
        return
    label = target.long()  # a comparison in uint8 would wrap the other side
    live = label[label != ignore_index]
    if live.numel() and not _are_classes(live, classes):
        wrong = (label != ignore_index) & ((label < 0) | (label >= classes))
        place = tuple(wrong.nonzero()[0].tolist())
        raise IndexError(
            f"target must be from 0 to {classes - 1}, as logits have {classes} classes, or ignore_index "
            f"({ignore_index}), got {int(target[place])} at (n, y, x) = {place}"
        )


def _are_classes(labels: Tensor, classes: int) -> bool:
    least, most = labels.aminmax()
    return least.item() >= 0 and most.item() < classes
