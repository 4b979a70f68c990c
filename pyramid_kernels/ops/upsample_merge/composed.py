"""``upsample_merge`` in PyTorch as a CPU does it fastest.

- A map of one pixel is spread out. PyTorch takes it for an NCHW map to resize, and the result changes layout with it.
- Bilinear NCHW maps are resized by a matrix per axis where PyTorch's kernel is slower. Zeros times NaN or infinity
  would spread them over the map: where a map or its gradient has some, PyTorch's kernel runs.
- A concat without a gradient is written where it belongs; in channels_last ``torch.cat`` is the faster way there.
- A sum is added up in place, and nearest maps at the smallest sizes at which they meet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...backends import Problem, for_compiler
from .._shared.affine import affine_
from .._shared.autocast import without_autocast
from .._shared.finite import can_read, guarded, is_finite
from .._shared.layout import memory_format
from . import reference
from .layout import leader
from .reference import resize
from .settings import Settings

#: Rows and columns of a result, together, up to which ATen's kernel for NCHW maps is the scalar one.
SCALAR = 128
#: Rows of a map up to which two products take less time than its other one, too.
FEW = 16
#: Elements of resized maps below which the calls around products and sums cost more than they save.
SMALL = 1 << 16


def supports(problem: Problem) -> str | None:
    if problem.dtype not in (torch.float32, torch.float64):
        return "matrices and partial sums of half precision would round more often than the unfused chain"
    return None


def pays(problem: Problem, sizes: tuple[int, ...]) -> str | None:
    """``sizes``: N, H, W, then the channels, rows and columns of every map."""
    if for_compiler():
        return "a compiler resizes every map within the one write"
    if problem.dtype != torch.float32:
        return "measured for float32 only"
    n, h, w, *rest = sizes
    _, merge, count = problem.options
    resized = [m for m in zip(rest[::3], rest[1::3], rest[2::3], strict=True) if m[1:] != (h, w)]
    if count < 2 or not resized:
        return "no map is resized beside another"
    if n * sum(c for c, _, _ in resized) * h * w < SMALL:
        return "the resized maps are small"
    if merge == "concat" and problem.channels_last and not any(rows == cols == 1 for _, rows, cols in resized):
        return "PyTorch's own channels_last kernels are as fast"
    return None


def upsample_merge(
    maps: Sequence[Tensor], size: tuple[int, int], scale: Tensor | None, shift: Tensor | None, settings: Settings
) -> Tensor:
    # A graph would hold for one size alone; and one map may be the result itself, which is nobody's to write to.
    if torch.compiler.is_compiling() or len(maps) < 2:
        return reference.upsample_merge(maps, size, scale, shift, settings)
    like = leader(maps, size)
    form = memory_format(like)
    with without_autocast(like):
        maps = [m.contiguous(memory_format=form) for m in maps]
        y = (concatenated if settings.merge == "concat" else summed)(maps, size, form, settings)
        return affine_(y.contiguous(memory_format=form), None, scale, shift, settings.relu)


def concatenated(
    maps: Sequence[Tensor], size: tuple[int, int], form: torch.memory_format, settings: Settings
) -> Tensor:
    differentiated = torch.is_grad_enabled() and any(m.requires_grad for m in maps)
    if differentiated or form == torch.channels_last or not can_read(maps[0]):
        return torch.cat([resized(m, size, form, settings).contiguous(memory_format=form) for m in maps], 1)
    channels = [m.shape[1] for m in maps]
    y = maps[0].new_empty((maps[0].shape[0], sum(channels), *size))
    for m, part in zip(maps, y.split(channels, 1), strict=True):
        for image, place in zip(m.split(1), part.split(1), strict=True):  # one image's channels are one block
            resized(image, size, form, settings, place)
    return y


def summed(maps: Sequence[Tensor], size: tuple[int, int], form: torch.memory_format, settings: Settings) -> Tensor:
    """The sum, a new map."""
    maps, sizes = _met(maps, size, settings.mode)
    y, new = maps[0], False
    for m, at in zip(maps[1:], sizes, strict=True):
        own = tuple(y.shape[2:])
        new = own != (1, 1) if own != at else new  # one pixel is spread out, which no sum can be written to
        y, term = resized(y, at, form, settings), resized(m, at, form, settings)
        if new:
            y = y.add_(term)
        else:
            y = term.add_(y) if tuple(m.shape[2:]) not in (at, (1, 1)) else y + term
        new = True
    return resized(y, size, form, settings)


def _met(maps: Sequence[Tensor], size: tuple[int, int], mode: str) -> tuple[Sequence[Tensor], list[tuple[int, int]]]:
    """``maps`` in the order in which to add them up, and the size at which each but the first meets those before it.

    Nearest maps from the smallest on, at their own sizes, if each of these is the next one divided by a power of two:
    then indices, which ATen computes in float32, are exact. Else all at the result's size.
    """
    ordered = sorted(maps, key=lambda m: m.shape[2] * m.shape[3])
    sizes = [(m.shape[2], m.shape[3]) for m in ordered]
    if mode == "nearest" and all(map(_doubles, sizes, [*sizes[1:], size])):
        return ordered, sizes[1:]
    return maps, [size] * (len(maps) - 1)


def _doubles(small: tuple[int, int], large: tuple[int, int]) -> bool:
    """Whether doubling makes every side of ``small`` that of ``large``."""
    return all(b % a == 0 and (b // a).bit_count() == 1 for a, b in zip(small, large, strict=True))


def resized(
    x: Tensor, size: tuple[int, int], form: torch.memory_format, settings: Settings, out: Tensor | None = None
) -> Tensor:
    """``x`` at ``size``: a view of it if it has that size or one pixel, else a new map; into ``out`` if given."""
    own, mode, align_corners = tuple(x.shape[2:]), settings.mode, settings.align_corners
    # PyTorch adds the neighbour times its share, which of an infinity is NaN where the share is zero.
    if own == size or (own == (1, 1) and (mode == "nearest" or is_finite([x]))):
        x = x if own == size else x.expand(*x.shape[:2], *size)
        return x if out is None else out.copy_(x)
    if mode == "bilinear" and form == torch.contiguous_format and _are_few(own, size) and is_finite([x]):
        return products(x, size, align_corners, out)
    if out is None:
        return resize(x, size, mode, align_corners)
    if mode == "nearest":
        return torch.ops.aten.upsample_nearest2d.out(x, size, out=out)
    return torch.ops.aten.upsample_bilinear2d.out(x, size, align_corners, out=out)


def _are_few(own: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether products with ``own`` rows and columns of shares take less time than ATen's kernel."""
    return own[0] <= size[0] and own[1] <= size[1] and (own[0] <= FEW or sum(size) <= SCALAR)


def products(x: Tensor, size: tuple[int, int], align_corners: bool, out: Tensor | None) -> Tensor:
    """NCHW ``x`` at ``size``, its columns resized by one matrix, then its rows by another."""
    n, c, h, w = x.shape
    rows, columns = (
        shares(a, b, "bilinear", align_corners, x.dtype, x.device) for a, b in ((h, size[0]), (w, size[1]))
    )
    wide = (x.reshape(n * c * h, w) @ columns).view(n, c, h, size[1])
    every = rows.T.expand(n, c, size[0], h)
    if out is not None:
        torch.bmm(every.flatten(0, 1), wide.flatten(0, 1), out=out.flatten(0, 1))
        return out
    return guarded(torch.matmul(every, wide), lambda x: resize(x, size, "bilinear", align_corners), x)


def shares(source: int, full: int, mode: str, align_corners: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[source, full]: what every index of an axis at its full size takes from each index of the source."""
    one_hot = torch.eye(source, dtype=dtype, device=device)
    if source == full:
        return one_hot
    linear = {"mode": "linear", "align_corners": align_corners} if mode == "bilinear" else {"mode": mode}
    return F.interpolate(one_hot[None], full, **linear)[0]
