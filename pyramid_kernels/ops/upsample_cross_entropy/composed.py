"""``upsample_cross_entropy`` in bands of output rows: the loss and its gradient while a band of logits is at hand.

Where losses are reduced, the forward makes the gradient too, but for the one factor that comes in: a band is upsampled
and its exponentials taken once. Where every pixel's loss has a gradient of its own, the backward makes bands again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.bands import Band, add_adjoint, bands, upsampled
from .._shared.precision import accumulation
from .settings import Settings


def pays(problem: Problem, sizes: tuple[int, ...]) -> str | None:
    """``sizes``: N, C, H, W of the logits that are never built, and h, w of those that are.

    Measured on one core against the unfused chain, with freed memory kept in the process and given back, labels ignored
    and not. A gradient made along with the loss takes 0.2 to 0.9 of its time from 4 classes on; everything else does
    where classes and pixels are more.
    """
    n, c, rows, cols, h, w = sizes
    (one_pass,) = problem.options
    if problem.dtype == torch.float64:
        return "it is no faster in float64"
    if 2 * h * w > rows * cols:
        return "the logits are nearly as large as the target: upsampling them in bands saves nothing"
    if c < (4 if one_pass else 16):
        return "too few classes" if one_pass else "too few classes where no gradient of a mean or sum is asked for"
    least = 2**19 if one_pass else 2**21 if problem.channels_last else 2**22
    return "the upsampled logits are small" if n * c * rows * cols < least else None


def forward(
    logits: Tensor, target: Tensor, weight: Tensor | None, y: Tensor, kept: Tensor, factor: Tensor, settings: Settings
) -> None:
    """Fill y (N, H, W) or (); unless nothing is reduced, factor (1,) and, if it has elements, kept (N, C, h, w): the
    gradient of the sum of losses."""
    total = torch.zeros(3, dtype=torch.float64, device=logits.device)
    dx = kept.zero_() if kept.numel() else None
    for band in bands(logits, target.shape[1:], settings.align_corners):
        loss, share, live = _band(logits, target, weight, band, settings, dx)
        if settings.reduction == "none":
            y[band.n, band.rows] = loss
        else:
            pixels = loss.numel()
            shares = share.sum() if share.dim() else share * pixels
            total += torch.stack([loss.sum(), shares, loss.new_tensor(pixels) if live is None else live.sum()])
    if settings.reduction == "mean":
        y.copy_(total[0] / total[1])
        factor.copy_(torch.where(total[2:] > 0, 1 / total[1:2], 0))  # the gradient is zero where nothing counts
    elif settings.reduction == "sum":
        y.copy_(total[0])
        factor.fill_(1)


def backward(
    dy: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, kept: Tensor, factor: Tensor, dlogits: Tensor,
    settings: Settings,
) -> None:  # fmt: skip
    """Fill dlogits (N, C, h, w)."""
    scale = dy if settings.reduction == "none" else dy * factor
    if kept.numel() and scale.isfinite():  # NaN times the zeros of pixels that do not count would be NaN
        dlogits.copy_(kept * scale)
        return
    exact = accumulation(logits)
    dx = dlogits.zero_() if dlogits.dtype == exact else torch.zeros_like(dlogits, dtype=exact)
    scale = scale.expand(target.shape)
    for band in bands(logits, target.shape[1:], settings.align_corners):
        _band(logits, target, weight, band, settings, dx, scale[band.n, band.rows])
    if dx is not dlogits:
        dlogits.copy_(dx)


def _band(
    logits: Tensor, target: Tensor, weight: Tensor | None, band: Band, settings: Settings, dx: Tensor | None,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """The loss of every pixel (rows, W), and ``_labelled``'s answers of it.

    dx (N, C, h, w) gains the gradient of the sum of the losses, each times ``scale`` (rows, W) if given.
    """
    size, c = target.shape[1:], logits.shape[1]
    # PyTorch's is vectorised, and of a band in cache.
    logs = upsampled(logits, band, size, settings.align_corners).log_softmax(0)
    label, share, live = _labelled(target, weight, band, settings, logs.dtype)
    smoothing = settings.label_smoothing / c
    hit = share * (1 - settings.label_smoothing)
    loss = logs.gather(0, label[None])[0].mul_(-hit)
    if smoothing:
        loss -= smoothing * (logs if weight is None else logs * weight[:, None, None]).sum(0)
    loss = loss if live is None else loss.masked_fill_(~live, 0)
    if dx is None:
        return loss, share, live
    scale = share.new_ones(()) if scale is None else scale
    scale = scale if live is None else torch.where(live, scale, 0)
    hit = hit * scale
    whole = c if weight is None else weight.sum()
    p = logs.exp_().mul_(hit + smoothing * whole * scale if smoothing else hit)
    p.scatter_add_(0, label[None], -hit.expand_as(label)[None])
    if smoothing:
        p.sub_(smoothing * scale if weight is None else weight[:, None, None] * (smoothing * scale))
    add_adjoint(dx[band.n], p, band, size, settings.align_corners)
    return loss, share, live


def _labelled(
    target: Tensor, weight: Tensor | None, band: Band, settings: Settings, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of every pixel (rows, W): its class, 0 where ignored; its class's weight, 0 where ignored, () where all are one;
    whether it counts, None where all do."""
    label = target[band.n, band.rows].long()
    live = label != settings.ignore_index
    if live.all():
        return label, torch.ones((), dtype=dtype, device=label.device) if weight is None else weight[label], None
    label = label * live
    return label, live.to(dtype) if weight is None else weight[label] * live, live
