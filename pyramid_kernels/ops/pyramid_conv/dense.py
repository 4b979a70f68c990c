"""The products of the kernel backends: library convolutions at each map's own resolution, and their gradients.

They go through PyTorch, so that its TF32 setting for convolutions rules them. Tensors live no longer than needed: with
the products of the levels at most as large as the concat, nothing here takes more memory than the unfused chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.layout import as_map, empty_map
from ..upsample_merge.layout import leader
from .layout import columns, split, taps_first


def products(
    kernels: Any, maps: list[Tensor], weight: Tensor, size: Sequence[int], mode: str, align_corners: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """The convolution (N, O, *size) of what is not mixed, and every mixed level's (N, k * k * O, H_i, W_i)."""
    whole, mixed = split(maps, weight, size)
    parts = columns(maps, weight)
    base = None
    if whole:
        x = together(kernels, [maps[i] for i in whole], size, mode, align_corners)
        base = F.conv2d(x, _joined(weight, parts, whole), padding=weight.shape[2] // 2)
    return base, [F.conv2d(maps[i], taps_first(parts[i])) for i in mixed]


def together(kernels: Any, maps: list[Tensor], size: Sequence[int], mode: str, align_corners: bool) -> Tensor:
    """The concat of ``maps`` at ``size``; a single map of that size as it is."""
    if len(maps) == 1 and tuple(maps[0].shape[2:]) == tuple(size):
        return maps[0]
    x = empty_map(leader(maps, size), (len(maps[0]), sum(m.shape[1] for m in maps), *size))
    kernels.resize(maps, x, mode, align_corners)
    return x


def _joined(weight: Tensor, parts: list[Tensor], places: list[int]) -> Tensor:
    """The columns of ``places``; the weight itself where they are all of it."""
    if len(places) == len(parts):
        return weight
    return parts[places[0]] if len(places) == 1 else torch.cat([parts[i] for i in places], 1)


def gradients(
    kernels: Any, dy: Tensor, maps: list[Tensor], weight: Tensor, scale: Tensor | None, y: Tensor | None,
    found: list[Tensor], needs: list[bool], mode: str, align_corners: bool,
) -> None:  # fmt: skip
    """Fill ``found``: one gradient per map and the weight's last, those that ``needs`` (maps, weight) asks for."""
    *dmaps, dweight = found
    dz = dy
    if y is not None or scale is not None:
        dz = torch.empty_like(dy)
        kernels.backward_dz(dy, y, scale, dz)
    whole, mixed = split(maps, weight, dy.shape[2:])
    parts = columns(maps, weight)
    dparts = columns(maps, dweight) if needs[1] else []
    if whole:
        some = [maps[i] for i in whole]
        x = together(kernels, some, dy.shape[2:], mode, align_corners)
        dx, dw = _conv_gradients(dz, x, _joined(weight, parts, whole), needs)
        if needs[1]:
            for i, dpart in zip(whole, dw.split([m.shape[1] for m in some], 1), strict=True):
                dparts[i].copy_(dpart)
        if needs[0]:
            _apart(kernels, dx, [dmaps[i] for i in whole], mode, align_corners)
    o, _, k, _ = weight.shape
    dlevels = [empty_map(maps[i], (len(dy), k * k * o, *maps[i].shape[2:])) for i in mixed]
    if mixed:
        kernels.backward_levels(dz, dlevels, k, mode, align_corners)
    for i, dlevel in zip(mixed, dlevels, strict=True):
        dmap, dw = _conv_gradients(dlevel, maps[i], taps_first(parts[i]), needs)
        if needs[1]:
            dparts[i].copy_(dw.view(k, k, o, -1).permute(2, 3, 0, 1))
        if needs[0]:
            dmaps[i].copy_(dmap)


def _apart(kernels: Any, dx: Tensor, dmaps: list[Tensor], mode: str, align_corners: bool) -> None:
    """Bring the gradient of ``together``'s result to its maps."""
    if len(dmaps) == 1 and dmaps[0].shape == dx.shape:
        dmaps[0].copy_(dx)
    else:
        kernels.backward_resize(as_map(dx, leader(dmaps, dx.shape[2:])), dmaps, mode, align_corners)


def _conv_gradients(dy: Tensor, x: Tensor, weight: Tensor, needs: list[bool]) -> tuple[Tensor, Tensor]:
    """Gradients of a same-padded convolution, those that ``needs`` (x, weight) asks for."""
    padding = [s // 2 for s in weight.shape[2:]]
    dx, dw, _ = torch.ops.aten.convolution_backward(
        dy, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, [*needs, False]
    )
    return dx, dw
