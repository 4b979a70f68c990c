"""The products of the kernel backends: library convolutions at each map's own resolution, and their gradients.

Resizing before a product, the gradient behind the epilogue and the sums for vectors are ``upsample_merge``'s kernels of
the same backend, ``merging``.

They go through PyTorch, so that its TF32 setting for convolutions rules them. Tensors live no longer than needed: with
the products of the levels at most as large as the concat, nothing here takes more memory than the unfused chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.layout import as_map, empty_map, placed
from ..upsample_merge.layout import leader
from ..upsample_merge.settings import Settings as Merging
from .layout import columns, inside, split_maps, taps_first
from .settings import Settings

Operand = tuple[Tensor, Tensor]


def products(
    merging: Any, maps: list[Tensor], weight: Tensor, settings: Settings
) -> tuple[Tensor | None, Operand | None, list[Tensor]]:
    """The convolution (N, O, *size) of what is not mixed, or a map of it and its weight (O, C) where the merge computes
    that product; and every mixed level's (N, k * k * O, H_i, W_i)."""
    size, mode, align_corners, *_ = settings
    whole, mixed = split_maps(maps, weight, size)
    parts = columns(maps, weight)
    base, operand = None, None
    place = inside([m.shape for m in maps], weight.shape, size)
    if place is not None:
        operand = maps[place], parts[place][:, :, 0, 0]
    elif whole:
        x = together(merging, [maps[i] for i in whole], size, mode, align_corners)
        base = F.conv2d(x, _joined(weight, parts, whole), padding=weight.shape[2] // 2)
        del x
    return base, operand, [F.conv2d(maps[i], taps_first(parts[i])) for i in mixed]


def together(merging: Any, maps: list[Tensor], size: Sequence[int], mode: str, align_corners: bool) -> Tensor:
    """The concat of ``maps`` at ``size``; a single map of that size as it is."""
    if len(maps) == 1 and tuple(maps[0].shape[2:]) == tuple(size):
        return maps[0]
    x = empty_map(leader(maps, size), (maps[0].shape[0], sum(m.shape[1] for m in maps), *size))
    merging.forward(maps, None, None, x, Merging(mode, align_corners, "concat"))
    return x


def _joined(weight: Tensor, parts: list[Tensor], places: list[int]) -> Tensor:
    """The columns of ``places``; the weight itself where they are all of it."""
    if len(places) == len(parts):
        return weight
    return parts[places[0]] if len(places) == 1 else torch.cat([parts[i] for i in places], 1)


def gradients(
    kernels: Any, merging: Any, dy: Tensor, maps: list[Tensor], weight: Tensor, scale: Tensor | None, y: Tensor | None,
    needs: list[bool], settings: Settings,
) -> list[Tensor]:  # fmt: skip
    """The weight's gradient in its strides, then every map's in its memory format; empty where ``needs`` says no."""
    _, mode, align_corners, *_ = settings
    dz = dy
    if y is not None or scale is not None:
        dz = torch.empty_like(dy)
        # Of its size: nothing is resized.
        merging.backward_maps(dy, y, scale, [dz], [0], Merging(mode, align_corners, "concat"))
    whole, mixed = split_maps(maps, weight, dy.shape[2:])
    parts = columns(maps, weight)
    found = [
        torch.empty_like(weight) if needs[0] else weight.new_empty(0),
        *[weight.new_empty((0, 1, 1, 1))] * len(maps),
    ]
    dparts = columns(maps, found[0]) if needs[0] else []
    if whole:
        dmaps, dw = _whole_gradients(merging, dz, maps, weight, whole, needs, mode, align_corners)
        for i, dmap in dmaps.items():
            found[1 + i] = dmap
        for i, dpart in zip(whole, dw.split([maps[i].shape[1] for i in whole], 1) if needs[0] else [], strict=False):
            dparts[i].copy_(dpart)
    o, _, k, _ = weight.shape
    mixed = [i for i in mixed if needs[0] or needs[1 + i]]
    dlevels = [empty_map(maps[i], (dy.shape[0], k * k * o, *maps[i].shape[2:])) for i in mixed]
    if mixed:
        kernels.backward_levels(dz, dlevels, k, settings)
    for i, dlevel in zip(mixed, dlevels, strict=True):
        dmap, dw = _conv_gradients(dlevel, maps[i], taps_first(parts[i]), needs[1 + i], needs[0])
        if needs[0]:
            dparts[i].copy_(dw.view(k, k, o, -1).permute(2, 3, 0, 1))
        if needs[1 + i]:
            found[1 + i] = placed(dmap, maps[i])
    return found


def _whole_gradients(
    merging: Any, dz: Tensor, maps: list[Tensor], weight: Tensor, whole: list[int], needs: list[bool], mode: str,
    align_corners: bool,
) -> tuple[dict[int, Tensor], Tensor]:  # fmt: skip
    """The gradients of the maps that are convolved at the output's size, by place, and of their columns."""
    some = [maps[i] for i in whole]
    wanted = any(needs[1 + i] for i in whole)
    x = together(merging, some, dz.shape[2:], mode, align_corners)
    dx, dw = _conv_gradients(dz, x, _joined(weight, columns(maps, weight), whole), wanted, needs[0])
    if not wanted:
        return {}, dw
    if x is some[0]:
        return {whole[0]: placed(dx, x)}, dw
    dmaps = [empty_map(m, m.shape) for m in some]
    firsts = [sum(d.shape[1] for d in dmaps[:i]) for i in range(len(dmaps))]
    dx = as_map(dx, leader(some, dz.shape[2:]))
    merging.backward_maps(dx, None, None, dmaps, firsts, Merging(mode, align_corners, "concat"))
    return {i: dmap for i, dmap in zip(whole, dmaps, strict=True) if needs[1 + i]}, dw


def _conv_gradients(dy: Tensor, x: Tensor, weight: Tensor, for_x: bool, for_weight: bool) -> tuple[Tensor, Tensor]:
    """Gradients of a same-padded convolution."""
    padding = [s // 2 for s in weight.shape[2:]]
    dx, dw, _ = torch.ops.aten.convolution_backward(
        dy, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, [for_x, for_weight, False]
    )
    return dx, dw


def sums(merging: Any, dy: Tensor, y: Tensor | None, z: Tensor | None, found: Tensor) -> None:
    """Fill ``found`` (1 or 2, O): sums of dy behind the ReLU of ``y`` and, if ``z`` is given, of its product with z."""
    merging.backward_affine(dy, y, [] if z is None else [z], found, Merging("bilinear", False, "sum"))
