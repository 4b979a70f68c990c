"""``upsample_cross_entropy`` in bands of output rows: the loss and its gradient while a band of logits is in cache.

The backward computes the band again from the low-resolution logits; kept are the normalisers, one value per pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...backends import Problem
from .._shared.bands import Band, add_adjoint, bands, upsampled
from .._shared.precision import accumulation
from .settings import Settings


def supports(problem: Problem) -> str | None:
    return None


def pays(problem: Problem, sizes: tuple[int, ...]) -> str | None:
    """``sizes``: N, C, H, W of the logits that are never built, and h, w of those that are."""
    n, c, rows, cols, h, w = sizes
    if 2 * h * w > rows * cols:
        return "the logits are nearly as large as the target: computing them twice takes longer"
    return "the upsampled logits are small" if n * c * rows * cols < 2**19 else None


def forward(
    logits: Tensor, target: Tensor, weight: Tensor | None, y: Tensor, lse: Tensor, factor: Tensor, settings: Settings
) -> None:
    """Fill y (N, H, W) or (), lse (N, H, W) and, unless nothing is reduced, factor (1,)."""
    size, c = target.shape[1:], logits.shape[1]
    total = torch.zeros(2, dtype=torch.float64, device=logits.device)
    smoothing = settings.label_smoothing / c
    whole = c if weight is None else weight.sum()
    for band in bands(logits, size, settings.align_corners):
        v = upsampled(logits, band, size, settings.align_corners)
        label, live, share = _labelled(target, weight, band, settings, v.dtype)
        picked = v.gather(0, label[None])[0]
        mean = (v if weight is None else v * weight[:, None, None]).sum(0) if smoothing else 0.0
        top = v.amax(0)
        top.masked_fill_(top == -torch.inf, 0)  # else a pixel of nothing but -inf would be NaN one step early
        r = v.sub_(top).exp_().sum(0).log_().add_(top)
        lse[band.n, band.rows] = r
        loss = (1 - settings.label_smoothing) * share * (r - picked)
        if smoothing:
            loss += smoothing * (whole * r - mean)
        loss = torch.where(live, loss, 0)
        if settings.reduction == "none":
            y[band.n, band.rows] = loss
        else:
            total += torch.stack([loss.sum(), share.sum()])
    if settings.reduction != "none":
        factor.copy_(1 / total[1:] if settings.reduction == "mean" else torch.ones_like(total[1:]))
        y.copy_(total[0] / total[1] if settings.reduction == "mean" else total[0])


def backward(
    dy: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, lse: Tensor, factor: Tensor, dlogits: Tensor,
    settings: Settings,
) -> None:  # fmt: skip
    """Fill dlogits (N, C, h, w)."""
    size, c = target.shape[1:], logits.shape[1]
    smoothing = settings.label_smoothing / c
    whole = c if weight is None else weight.sum()
    exact = accumulation(logits)
    dx = dlogits.zero_() if dlogits.dtype == exact else torch.zeros_like(dlogits, dtype=exact)
    for band in bands(logits, size, settings.align_corners):
        v = upsampled(logits, band, size, settings.align_corners)
        label, live, share = _labelled(target, weight, band, settings, v.dtype)
        scale = torch.where(live, dy[band.n, band.rows] if settings.reduction == "none" else dy * factor, 0)
        hit = (1 - settings.label_smoothing) * share * scale
        # Without smoothing there is no such term: zero times an infinite gradient is NaN.
        p = v.sub_(lse[band.n, band.rows]).exp_().mul_(hit + smoothing * whole * scale if smoothing else hit)
        p.scatter_add_(0, label[None], -hit[None])
        if smoothing:
            p.sub_(smoothing * scale if weight is None else weight[:, None, None] * (smoothing * scale))
        add_adjoint(dx[band.n], p, band, size, settings.align_corners)
    if dx is not dlogits:
        dlogits.copy_(dx)


def _labelled(
    target: Tensor, weight: Tensor | None, band: Band, settings: Settings, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Of every pixel (rows, W): its class, 0 where ignored; whether it counts; its class's weight, 0 where ignored."""
    label = target[band.n, band.rows].long()
    live = label != settings.ignore_index
    label = torch.where(live, label, 0)
    return label, live, live.to(dtype) if weight is None else weight[label] * live
