"""The loss of a segmentation network from its low-resolution logits, auxiliary heads and hard pixels included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..backends import Backend
from ..functional import upsample_cross_entropy
from ..ops._shared.checks import check_length
from .base import check_backend


class UpsampleCrossEntropyLoss(nn.CrossEntropyLoss):
    """``nn.CrossEntropyLoss`` of logits resized to the target by ``upsample_cross_entropy``; same ``state_dict``.

    Equivalent to ``nn.CrossEntropyLoss(...)(interpolate(logits, target.shape[1:], mode="bilinear"), target)``.

    With ``ohem_threshold``, only hard pixels count: those whose loss is at least ``-log(ohem_threshold)``, and at least
    the ``min_kept`` hardest of the batch, equals of the last included. The result is the mean over their number.
    Without class weights and smoothing, hard means that the label was given at most that probability.

    Args:
        weight: (C,) one factor per class or None; a buffer.
        ignore_index: the label of pixels that do not count.
        reduction: "mean", "sum" or "none"; "mean" with ``ohem_threshold``.
        label_smoothing: from 0 to 1.
        align_corners: as in ``torch.nn.functional.interpolate``.
        ohem_threshold: above 0 and at most 1, such as 0.7; None counts every pixel.
        min_kept: the least number of pixels that count, if so many are not ignored; None is a sixteenth of those.
        backend: asked of ``upsample_cross_entropy``.

    Raises:
        TypeError, ValueError: naming the argument.

    Source: Shrivastava et al., Training Region-based Object Detectors with Online Hard Example Mining, 2016; Yu et al.,
    BiSeNet, 2018.
    """

    def __init__(
        self, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean",
        label_smoothing: float = 0.0, align_corners: bool = False, ohem_threshold: float | None = None,
        min_kept: int | None = None, backend: Backend = "auto",
    ) -> None:  # fmt: skip
        super().__init__(weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing)
        _check_ohem(ohem_threshold, min_kept, reduction)
        self.align_corners = align_corners
        self.ohem_threshold = ohem_threshold
        self.min_kept = min_kept
        self.kernel_backend = check_backend(backend)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (N, C, h, w), target (N, H, W) -> () or, for "none", (N, H, W); float32 or float64."""
        losses = upsample_cross_entropy(
            logits, target, align_corners=self.align_corners, weight=self.weight, ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing, reduction="none" if self.ohem_threshold else self.reduction,
            backend=self.kernel_backend,
        )  # fmt: skip
        return self._hard_mean(losses, target, self.ohem_threshold) if self.ohem_threshold else losses

    def multi(self, logits: Sequence[Tensor], target: Tensor, weights: Sequence[float] | None = None) -> Tensor:
        """The weighted sum of the losses of several logits, such as BiSeNet's main and auxiliary ones, at one target.

        Args:
            logits: one (N, C, h, w) per head, each of its own size.
            target: (N, H, W).
            weights: one factor per head; None is 1 for each.
        """
        if not isinstance(logits, list | tuple) or not logits:
            raise TypeError(f"logits must be a non-empty list or tuple of tensors, got {type(logits).__name__}")
        if weights is None:
            weights = [1.0] * len(logits)
        check_length("weights", weights, len(logits), "logits")
        first, *rest = (w * self(z, target) for w, z in zip(weights, logits, strict=True))
        return sum(rest, start=first)

    @classmethod
    def from_reference(cls, module: nn.CrossEntropyLoss, **options: Any) -> Self:
        """The loss with the weight and options of ``module``; ``options`` are those that it does not have."""
        weight = None if module.weight is None else module.weight.clone()
        loss = cls(
            weight, ignore_index=module.ignore_index, reduction=module.reduction,
            label_smoothing=module.label_smoothing, **options,
        )  # fmt: skip
        return loss.train(module.training)

    def to_reference(self) -> nn.CrossEntropyLoss:
        """PyTorch's loss with the same weight and options, for logits of the target's size; it has no hard pixels."""
        if self.ohem_threshold:
            raise ValueError("nn.CrossEntropyLoss counts every pixel; a loss with ohem_threshold has no reference")
        weight = None if self.weight is None else self.weight.clone()
        loss = nn.CrossEntropyLoss(
            weight, ignore_index=self.ignore_index, reduction=self.reduction, label_smoothing=self.label_smoothing
        )
        return loss.train(self.training)

    def _hard_mean(self, losses: Tensor, target: Tensor, threshold: float) -> Tensor:
        """() the mean of the hard ones of ``losses`` (N, H, W).

        A mask and a fixed rank in place of a list of pixels: nothing waits for the GPU, and no order is undefined.
        """
        if not losses.numel():
            return losses.mean()
        counts = target.long() != self.ignore_index  # in uint8, -100 would be a class
        ranked = torch.where(counts, losses.detach(), -torch.inf)
        least = losses.numel() // 16 if self.min_kept is None else min(self.min_kept, losses.numel())
        hardest = ranked.flatten().topk(max(1, least)).values
        rank = counts.sum() // 16 if self.min_kept is None else counts.new_tensor(least, dtype=torch.long)
        last = hardest.gather(0, (rank - 1).clamp(min=0)[None])[0]
        hard = counts & ~(ranked < last.clamp(max=-math.log(threshold)))  # a NaN stays, to be seen
        return torch.where(hard, losses, 0).sum() / hard.sum()


def _check_ohem(threshold: Any, min_kept: Any, reduction: str) -> None:
    if threshold is None:
        if min_kept is not None:
            raise ValueError(f"min_kept needs ohem_threshold, got min_kept={min_kept} alone; give ohem_threshold=0.7")
        return
    if not isinstance(threshold, int | float) or not 0 < threshold <= 1:
        raise ValueError(f"ohem_threshold must be a probability above 0 and at most 1, or None, got {threshold!r}")
    if min_kept is not None and (not isinstance(min_kept, int) or isinstance(min_kept, bool) or min_kept < 1):
        raise ValueError(f"min_kept must be an int of at least 1, or None, got {min_kept!r}")
    if reduction != "mean":
        raise ValueError(f"reduction must be 'mean' with ohem_threshold, got {reduction!r}")
