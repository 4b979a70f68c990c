"""The arguments of ``upsample_cross_entropy``; labels too where they can be read without waiting for a GPU."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from ...backends import transform
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
            f"target must hold class indices in int64, int32, int16 or uint8, got {target.dtype}"
            + _hint(target, logits.shape[1])
        )
    if target.dim() != 3:
        raise ValueError(
            f"target must be 3-D (N, H, W), got {target.dim()}-D {tuple(target.shape)}" + _hint(target, logits.shape[1])
        )
    if target.shape[0] != logits.shape[0]:
        raise ValueError(
            f"target must have the N of logits, got {tuple(target.shape)} and {tuple(logits.shape)}; one map of labels "
            "per image"
        )
    if 0 in target.shape[1:]:
        raise ValueError(f"target must have H and W of at least 1, got {tuple(target.shape)}; only N may be 0")
    check_like("target", target, "logits", logits, dtype=False)
    if not torch.compiler.is_compiling() and _exchanged(logits.shape[2:], target.shape[1:]):
        _warn_exchanged()


def _exchanged(size: torch.Size, full: torch.Size) -> bool:
    """Whether ``full``, its H and W exchanged, is ``size`` enlarged, and of another shape as it stands.

    Sizes of pyramids are rounded: a side may be off by one pixel, so the shape of small maps says nothing.
    """
    (h, w), (rows, columns) = size, full

    def alike(a: int, b: int) -> bool:
        """rows : columns is a : b, as nearly as sides rounded to whole pixels tell."""
        return abs(rows * b - columns * a) <= max(rows, columns)

    return min(h, w) >= 8 and 5 * max(h, w) >= 6 * min(h, w) and alike(w, h) and not alike(h, w)


@functools.cache
def _warn_exchanged() -> None:
    warnings.warn(
        "pyramid_kernels: target is (N, H, W), and its H and W look exchanged beside those of logits: they are "
        "stretched to it. PIL's size is (W, H); if target is (N, W, H), use target.transpose(1, 2)",
        stacklevel=2,
    )


def _hint(target: Tensor, classes: int) -> str:
    """What makes labels (N, H, W) of this ``target``, as far as its shape and values tell."""
    values = target.detach().float() if _readable(target) else None
    take = ".unsqueeze(0)" if target.dim() == 2 else ""
    if target.dim() == 4:
        axis = 1 if target.shape[1] <= target.shape[3] else 3
        width = target.shape[axis]
        if width == 1:
            take = f".squeeze({axis})"
        elif values is not None and bool((values == values.narrow(axis, 0, 1)).all() and values.any()):
            take = f".select({axis}, 0)"
        elif width == classes and _is_shares(target, values, axis):
            numbers = "target.long()" if target.dtype == torch.bool else "target"
            return f"; class probabilities and one-hot maps are not supported, {numbers}.argmax({axis}) takes the class"
        elif width in (3, 4):
            return "; a mask of colours has no classes, replace each colour by its class; PIL's mode 'P' holds classes"
    return _conversion(target, values, take)


def _conversion(target: Tensor, values: Tensor | None, take: str) -> str:
    """How labels of another dtype become int64, ``take`` being how the channel is dropped or the batch added."""
    as_is, scaled = f"target.long(){take}", f"(target * 255).round().long(){take}"
    scaled = f"labels / 255, as ToTensor makes them, with {scaled}"
    if target.dtype in LABELS:
        return f"; use target{take}" if take else ""
    if values is None:
        return f"; convert indices with {as_is}" + (f", and {scaled}" if target.is_floating_point() else "")
    whole = bool((values == values.round()).all())
    if target.is_floating_point() and bool(((values >= 0) & (values <= 1)).all()):
        return f"; convert indices with {as_is}, and {scaled}" if whole else f"; convert {scaled}"
    if whole:
        return f"; convert it with {as_is}"
    return "; its values are no whole numbers, resize maps of labels with mode='nearest'"


def _is_shares(target: Tensor, values: Tensor | None, axis: int) -> bool:
    """Whether the channels of ``target`` are shares of classes, and not colours."""
    if values is None or (target.is_floating_point() and target.shape[axis] not in (3, 4)):
        return True
    return bool((values >= 0).all() and (values.sum(axis) - 1).abs().max() < 0.02)


def _readable(target: Tensor) -> bool:
    """Whether there are values that can be looked at."""
    traced = isinstance(target, FakeTensor) or torch.compiler.is_compiling() or transform() == "vmap"
    return not (traced or target.is_meta or target.is_complex()) and target.numel() > 0


def check_labels(target: Tensor, classes: int, ignore_index: int) -> None:
    """Every label of a CPU's target (N, H, W) is a class or ignored; IndexError for the first that is not."""
    if target.device.type != "cpu" or not _readable(target):
        return
    if _are_classes(target, classes):
        return
    label = target.long()  # a comparison in uint8 would wrap the other side
    ignored = label == ignore_index
    if not _are_classes(label.masked_fill(ignored, 0), classes):  # several times faster than taking the others out
        live, wrong = label[~ignored], ~ignored & ((label < 0) | (label >= classes))
        place = tuple(wrong.nonzero()[0].tolist())
        raise IndexError(
            f"target must be from 0 to {classes - 1}, as logits have {classes} classes, or ignore_index "
            f"({ignore_index}), got {int(target[place])} at (n, y, x) = {place}{_hint_of_values(live, classes)}"
        )


def _hint_of_values(live: Tensor, classes: int) -> str:
    """What labels that are no classes may be."""
    if classes == 2 and bool(((live == 0) | (live == 255)).all()):
        return "; a mask of 0 and 255 has the classes target // 255"
    rest = live[(live < 0) | (live >= classes)]
    if bool((rest == 255).all()):
        return "; where 255 marks pixels without a label, give ignore_index=255"
    return (
        "; labels that start at 1 are classes less 1"
        if bool((rest == classes).all()) and bool((live > 0).all())
        else ""
    )


def _are_classes(labels: Tensor, classes: int) -> bool:
    least, most = labels.aminmax()
    return least.item() >= 0 and most.item() < classes
