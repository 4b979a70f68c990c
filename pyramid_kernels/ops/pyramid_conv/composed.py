"""``pyramid_conv`` in PyTorch, mixed at low resolution: resampling is one small matrix per axis.

A row of taps of a level is one 1x1 convolution at its own resolution; columns, then rows, are resampled by matrices
that hold the interpolation, the shift of the tap, and zeros where the tap lies outside the map. One row of taps at a
time, so that the intermediate results stay smaller than the concat. Matrix products run in channels_last, where the
channels of a pixel are a row of the operand. Zeros times NaN or infinity would spread them over the map: where a level
or the incoming gradient has some, the unfused chain runs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...backends import Problem, for_inductor
from .._shared.affine import affine_
from .._shared.autocast import without_autocast
from .._shared.finite import guarded, is_finite
from .._shared.layout import as_map, is_channels_last
from ..upsample_merge.composed import shares
from ..upsample_merge.layout import leader
from ..upsample_merge.reference import resize
from .layout import columns, split, split_maps
from .settings import Settings


def pays(problem: Problem, sizes: tuple[int, ...]) -> str | None:
    """``sizes``: N, O, k, H, W, then the channels, rows and columns of every map.

    All is counted in multiply-adds per output channel. Measured: a level's resampling is its matrices' products and
    some 30 more per output and pass, repacking a weight some 40 per element; and each of these takes five times as long
    as one of a 3x3 convolution. A 1x1 takes little longer than upsampling its operands. Compiled by Inductor, a 1x1
    resizes within its sum, the products take twice as long as the convolution's, and what is around them some three
    million operations per level.
    """
    n, o, k, h, w, *rest = sizes
    if problem.dtype != torch.float32:
        return "measured for float32 only"
    maps = [(n, *rest[i : i + 3]) for i in range(0, len(rest), 3)]
    columns, pixels = k * k * sum(m[1] for m in maps), h * w
    _, mixed = split(maps, (o, columns // (k * k), k, k), (h, w), by_rows=True)
    levels = [maps[i] for i in mixed]
    total = n * columns * pixels
    saved = n * sum(k * k * c * (pixels - rows * cols) for _, c, rows, cols in levels)
    products = n * sum(k * rows * pixels + k * k * rows * cols * w for _, _, rows, cols in levels)
    if saved * 8 < total:
        return "the maps below the output's size hold too little of the work"
    if for_inductor.get():
        spent = 2 * products + 40 * columns + len(levels) * 3 * 10**6 // o
        pays = saved * 5 >= total if k == 1 else 11 * (total - saved + spent) <= 10 * total
        return None if pays else "resampling costs what mixing at low resolution saves"
    spent = products + 30 * n * k * len(levels) * pixels + 40 * columns
    if saved * 3 < spent * 4 or (k == 3 and 21 * (total - saved + 5 * spent) > 20 * total):
        return "resampling costs what mixing at low resolution saves"
    return None if o * saved >= 2 * 10**7 else "the maps are small"


def share(sizes: tuple[int, ...]) -> float:
    """The composed form's multiply-adds over the unfused chain's, of ``sizes`` as ``pays`` has them.

    1 where sizes are symbols: an export is then the unfused chain, which has no matrices.
    """
    n, o, k, h, w, *rest = sizes
    if any(isinstance(s, torch.SymInt) for s in sizes):
        return 1.0
    maps = [(n, *rest[i : i + 3]) for i in range(0, len(rest), 3)]
    _, mixed = split(maps, (o, sum(m[1] for m in maps), k, k), (h, w), by_rows=True)
    levels = [maps[i][1:] for i in mixed]
    total = sum(k * k * c * h * w for _, c, _, _ in maps)
    saved = sum(k * k * c * (h * w - rows * cols) for c, rows, cols in levels)
    spent = 0 if k == 1 else sum(k * rows * h * w + k * k * rows * cols * w for _, rows, cols in levels)
    return (total - saved + spent) / total


def pyramid_conv(
    maps: Sequence[Tensor], weight: Tensor, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None,
    settings: Settings,
) -> Tensor:  # fmt: skip
    size, mode, align_corners, relu, _ = settings
    whole, mixed = split_maps(maps, weight, size, by_rows=True)
    if not is_finite([maps[i] for i in mixed]):
        mixed, whole = [], list(range(len(maps)))
    parts, k, last = columns(maps, weight), weight.shape[2], is_channels_last(leader(maps, size))
    # A wider bias is added in its own dtype, and so is its gradient's sum.
    inner, outer = (bias, None) if whole and bias is not None and bias.dtype == weight.dtype else (None, bias)
    if whole:
        some = torch.cat([parts[i] for i in whole], 1)
        y = _unfused(size, mode, align_corners, some, inner, *(maps[i] for i in whole))
    else:
        y = maps[0].new_zeros((maps[0].shape[0], weight.shape[0], *size))
    wide = torch.promote_types(weight.dtype, torch.float32)  # 16-bit sums are rounded once, as in a convolution
    y = as_map(y, leader(maps, size)).to(wide)
    with without_autocast(y):  # maps and weight are cast; the sums stay wide
        for i in mixed:
            if k == 1 and torch.compiler.is_compiling():  # a compiler resizes within the sum, and needs no matrices
                y = y + resize(_mixed(maps[i], parts[i]).to(wide), size, mode, align_corners)
                continue
            rows, cols = (_resampling(maps[i], axis, size, mode, align_corners, k, wide, last) for axis in (0, 1))
            step = k if torch.compiler.is_compiling() else 1  # a graph of a third of the nodes, for more memory
            for tap in range(0, k, step):
                level = _rows_of_taps(maps[i], parts[i][:, :, tap : tap + step], cols, last)
                y = _accumulated(y, rows[:, tap : tap + step].flatten(1), level, last)
    if mixed:
        y = guarded(y, functools.partial(_unfused, size, mode, align_corners), weight, inner, *maps)
    return affine_(y, outer, scale, shift, relu).to(weight.dtype)


def _unfused(
    size: Sequence[int], mode: str, align_corners: bool, weight: Tensor, bias: Tensor | None, *maps: Tensor
) -> Tensor:
    """The chain as PyTorch has it, without its epilogue."""
    x = torch.cat([resize(m, size, mode, align_corners) for m in maps], 1)
    return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)


def _mixed(x: Tensor, weight: Tensor) -> Tensor:
    """A 1x1 convolution. Of an NCHW map on a CPU a compiler would make a channels_last copy; a product takes it as it
    is. Its result is channels_last, as what follows is laid out where a convolution reads it.
    """
    compiled = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    if compiled and x.device.type == "cpu" and not is_channels_last(x):
        return torch.matmul(x.flatten(2).mT, weight.flatten(1).T).mT.unflatten(2, x.shape[2:])
    return F.conv2d(x, weight)


def _rows_of_taps(x: Tensor, weight: Tensor, cols: Tensor, last: bool) -> Tensor:
    """Some rows of taps (O, C, r, k) of a level (N, C, h, w), its columns resampled by ``cols``.

    [N, r * h, W * O] for channels_last, else [N * O, r * h, W].
    """
    o, c, r, k = weight.shape
    x = x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    products = _mixed(x, weight.permute(2, 3, 0, 1).reshape(r * k * o, c, 1, 1)).to(cols.dtype)
    n, _, h, w = products.shape
    products = products.view(n, r, k, o, h, w)
    if last:
        products = products.permute(0, 1, 4, 5, 2, 3).reshape(n * r * h, w * k, o)
        return torch.matmul(cols.flatten(1), products).view(n, r * h, cols.shape[0] * o)
    products = products.permute(0, 3, 1, 4, 2, 5).reshape(n * o * r * h, k * w)
    return (products @ cols.flatten(0, 1)).view(n * o, r * h, cols.shape[2])


def _accumulated(y: Tensor, rows: Tensor, level: Tensor, last: bool) -> Tensor:
    """``y`` (N, O, H, W), in place, plus what ``_rows_of_taps`` gave, its rows resampled by ``rows`` [H, r * h]."""
    n, o, h, w = y.shape
    flat = y.permute(0, 2, 3, 1).view(n, h, w * o) if last else y.view(n * o, h, w)
    flat.baddbmm_(rows.expand(flat.shape[0], *rows.shape), level)
    return y


def _resampling(
    x: Tensor, axis: int, size: Sequence[int], mode: str, align_corners: bool, k: int, dtype: torch.dtype, last: bool
) -> Tensor:
    """What every tap of every output index takes from the indices of ``x`` along ``axis``, as products read it.

    [H, k, h] of rows; of columns [W, w, k] for channels_last, else [k, w, W].
    """
    order = [1, 0, 2] if axis == 0 else [1, 2, 0] if last else [0, 2, 1]
    given = (x.shape[2 + axis], size[axis], mode, align_corners, k, order, dtype, x.device)
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return torch.ops.pyramid_kernels.resampling(*given)
    return _matrices(*given)


def _matrices(
    source: int, full: int, mode: str, align_corners: bool, k: int, order: Sequence[int], dtype: torch.dtype,
    device: torch.device,
) -> Tensor:  # fmt: skip
    """[k, full, source], permuted by ``order``."""
    padded = F.pad(shares(source, full, mode, align_corners, dtype, device), (k // 2, k // 2))
    return torch.stack([padded[:, tap : tap + full].T for tap in range(k)]).permute(*order).contiguous()


@torch.library.custom_op("pyramid_kernels::resampling", mutates_args=())
def _traced(
    source: int, full: int, mode: str, align_corners: bool, kernel: int, order: Sequence[int], dtype: torch.dtype,
    device: torch.device,
) -> Tensor:  # fmt: skip
    """``_matrices`` as one node of a compiled graph: constants, which a compiler would spend minutes on."""
    return _kept(source, full, mode, align_corners, kernel, tuple(order), dtype, device).clone()


_kept = functools.lru_cache(maxsize=256)(_matrices)


@_traced.register_fake
def _(
    source: int, full: int, mode: str, align_corners: bool, kernel: int, order: Sequence[int], dtype: Any, device: Any
) -> Tensor:
    return torch.empty([(kernel, full, source)[at] for at in order], dtype=dtype, device=device)
