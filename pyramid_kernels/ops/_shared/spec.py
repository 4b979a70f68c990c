"""How an op's ``spec.py`` describes its cases; tests, ``verify`` and ``bench`` all read these and nothing else.

A ``spec.py`` holds ``CASES`` (small: tests and verify), ``BENCH`` (published shapes), ``launches(case, channels_last,
backend)`` -> the kernels one forward and one backward launch, and ``cost(case, itemsize)``. Where an activation
follows, it may hold ``margin(tensors)``: the distance of every output's pre-activation from zero, in float64. A
memory-bound op that takes the autocast dtype, as convolutions do, says ``CASTS = True``. Where NaN and infinity need
not be all where PyTorch has them (docs/numerics.md says why), ``PADDED`` names results that a convolution's padding
reaches, by their start; ``INFINITE`` says that of an infinity "nan" may stay infinite, or that there are "fewer" of
either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Arg:
    """One tensor argument: its shape, what its data looks like, whether its gradient is compared.

    kind: "map" (4-D, takes the tested layout), "cells" ((N, C, S), likewise), "weight" (convolution weight, scaled by
    its fan-in), "vector" (around one), "shift" (around zero), "positive" (variances), "gate" (+6 or -6 by channel:
    keeps pre-activations far from zero), "distinct" (a map of distinct values that every dtype holds exactly), "labels"
    ((N, H, W) of ``dtype`` from 0 to ``classes`` - 1, a quarter of them ``ignored``).
    Vectors, shifts, positives and gates are float32 unless the tested dtype is float64.
    """

    shape: tuple[int, ...]
    kind: str = "map"
    grad: bool = True
    classes: int = 0
    dtype: torch.dtype = torch.int64
    ignored: int | None = None


def arg(*shape: int, kind: str = "map", grad: bool = True) -> Arg:
    return Arg(shape, kind, grad)


def labels(*shape: int, classes: int, dtype: torch.dtype = torch.int64, ignored: int | None = None) -> Arg:
    return Arg(shape, "labels", False, classes, dtype, ignored)


@dataclass(frozen=True)
class Case:
    """One call of an op: keyword arguments in which every ``Arg`` (also inside lists and tuples) becomes a tensor."""

    id: str
    args: dict[str, Any] = field(hash=False)
    exact: bool = True  # whether small-integer data gives exact fp32 arithmetic (power-of-two areas and ratios)


class Cost(NamedTuple):
    """Work of one forward call: multiply-adds as FLOPs (dense, and on data only) and the bytes it must move."""

    total: int
    useful: int
    floor_bytes: int


VECTORS = ("vector", "shift", "positive", "gate")


def materialise(
    case: Case, dtype: torch.dtype, device: str = "cpu", channels_last: bool = False, seed: int = 0, exact: bool = False
) -> dict[str, Any]:
    """The keyword arguments of ``case`` as tensors: the same float64 values for every dtype, rounded to it once."""
    generator = torch.Generator().manual_seed(seed)

    def build(a: Arg) -> Tensor:
        if a.kind == "labels":
            return _labels(a, generator).to(device)
        t = _data(a, generator, exact)
        t = t.to(dtype if a.kind not in VECTORS or dtype == torch.float64 else torch.float32)
        if channels_last and a.kind in ("map", "distinct"):
            t = t.contiguous(memory_format=torch.channels_last)
        if channels_last and a.kind == "cells":
            t = t.transpose(1, 2).contiguous().transpose(1, 2)
        return t.to(device).requires_grad_(a.grad)

    return {name: map_args(build, value) for name, value in case.args.items()}


def map_args(fn: Callable[[Arg], Any], value: Any) -> Any:
    """``value`` with every ``Arg`` inside lists and tuples replaced by ``fn(arg)``."""
    if isinstance(value, Arg):
        return fn(value)
    if isinstance(value, list | tuple):
        return type(value)(map_args(fn, v) for v in value)
    return value


def arguments_of(case: Case) -> list[Arg]:
    """Every tensor argument of ``case``."""
    found: list[Arg] = []
    for value in case.args.values():
        map_args(found.append, value)
    return found


def _labels(a: Arg, generator: torch.Generator) -> Tensor:
    t = torch.randint(0, a.classes, a.shape, generator=generator)
    if a.ignored is not None:
        t[torch.rand(a.shape, generator=generator) < 0.25] = a.ignored
    return t.to(a.dtype)


def _data(a: Arg, generator: torch.Generator, exact: bool) -> Tensor:
    """float64 data; the small integers of ``exact`` and "distinct" are held exactly by every dtype."""
    shape = a.shape
    if a.kind == "distinct" and 0 not in shape:
        count = prod(shape[2:])
        order = torch.stack([torch.randperm(count, generator=generator) for _ in range(prod(shape[:2]))])
        return (order.view(shape) - count // 2).double()
    if a.kind == "gate":
        return torch.arange(shape[0]).remainder(2).mul(12).sub(6).double()
    if exact:
        if a.kind == "vector":
            return 2.0 ** torch.randint(-1, 2, shape, generator=generator).double()
        if a.kind == "positive":
            return torch.full(shape, 3.0, dtype=torch.float64)
        return torch.randint(-3, 4, shape, generator=generator).double()
    t = torch.randn(shape, generator=generator, dtype=torch.float64)
    if a.kind == "weight":
        t = t / prod(shape[1:]) ** 0.5
    elif a.kind == "vector":
        t = 1 + t / 4
    elif a.kind == "positive":
        t = 0.5 + t.square()
    return t
