"""What the CUDA kernels of a benchmarked case ask of memory, counted in the simulator's profile build.

A case is cut until it runs in seconds: one image, channels and map as ``CUTS`` has them, and multiprocessors in
proportion, so that plans stay what they are.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.overrides import BaseTorchFunctionMode

from pyramid_kernels import _native
from pyramid_kernels.ops import spec
from pyramid_kernels.ops._shared import launch, native
from pyramid_kernels.ops._shared.spec import Arg, Case, arguments_of, map_args, materialise
from pyramid_kernels.verification.oracle import call, leaves
from tests import hostsim

from .aten import Work, watched

T = TypeVar("T")

#: Multiprocessors that the whole case is planned for.
PROCESSORS = 132
#: Arguments that grow with the image, and those of which there is one for each.
MAPS = "map", "distinct", "labels"
INPUTS = *MAPS, "cells"
ALL = 1 << 30


class Cut(NamedTuple):
    """The most that is left of a case: pixels of its largest map, channels of each, outputs of each weight.

    Where lanes lie along channels, there must be at least 32 vectors of 16 bytes left, or fewer lanes are at work.
    """

    pixels: int = 1 << 11
    channels: int = ALL
    outputs: int = ALL


CUTS = {
    "pyramid_pool": Cut(1 << 13, 256),
    "max_pool_pyramid": Cut(channels=512),
    "upsample_merge": Cut(1 << 12, 512),
    "upsample_cross_entropy": Cut(1 << 15),
    "upsample_argmax": Cut(1 << 15),
    "dilated_branches": Cut(channels=128, outputs=64),
    "dilated_branches_train": Cut(channels=128, outputs=64),
}

COUNTS = (
    "requests", "lanes", "bytes", "largest", "sectors", "ideal", "lines", "block", "new",
    "wavefronts", "ideal_wavefronts", "requests_4", "cost_4", "requests_8", "cost_8", "requests_16", "cost_16",
)  # fmt: skip


class Row(NamedTuple):
    """What one instruction of a kernel did to one buffer."""

    kernel: str
    body: int  # the kernel's offset in the module: it has several bodies of that name
    code: int  # the instruction's
    kind: str  # "LDG", "STG", "ATOMG", "LDS", "STS", "ATOMS"
    buffer: str  # "shared", or a tensor's name
    counts: Counter[str]


class Smaller(NamedTuple):
    """A case as it is profiled."""

    case: Case
    share: float  # of the whole case's data
    processors: int  # that it is planned for

    def __str__(self) -> str:
        shapes = " ".join("x".join(map(str, a.shape)) for a in arguments_of(self.case) if a.kind in INPUTS)
        return f"{shapes}, {self.share:.3g} of the data, planned for {self.processors} multiprocessors"


class Launch(NamedTuple):
    kernel: str
    body: int
    ctas: int
    threads: int  # of a CTA
    shared: int  # dynamic, bytes


class Pass(NamedTuple):
    rows: list[Row]
    launches: list[Launch]
    library: Work  # PyTorch's own operators


class Profile(NamedTuple):
    passes: dict[str, Pass]  # "forward" and, where there is one, "backward"
    cut: Smaller
    floor: int  # bytes that its forward must move


def cut(op: str, case: Case) -> Smaller:
    most = CUTS.get(op, Cut())
    sides = [a.shape[-2:] for a in arguments_of(case) if a.kind in MAPS]
    sides.append(case.args.get("size", (1, 1)))
    factor = 1
    while max(prod(_side(s, factor) for s in pair) for pair in sides) > most.pixels:
        factor *= 2

    def smaller(a: Arg) -> Arg:
        first, *rest = a.shape
        if a.kind == "labels":
            return replace(a, shape=(1, *(_side(s, factor) for s in rest)))
        if a.kind in MAPS:
            return replace(a, shape=(1, min(rest[0], most.channels), *(_side(s, factor) for s in rest[1:])))
        if a.kind == "cells":
            return replace(a, shape=(1, *rest))
        return replace(a, shape=(min(first, most.outputs), *(min(s, most.channels) for s in rest)))  # weights, vectors

    args = {name: map_args(smaller, value) for name, value in case.args.items()}
    if "size" in args:
        args["size"] = tuple(_side(s, factor) for s in args["size"])
    small = replace(case, args=args)
    share = _elements(small) / _elements(case)
    return Smaller(small, share, max(2, round(PROCESSORS * share)))


def _side(length: int, factor: int) -> int:
    """A side of a map that many times smaller; levels of a few cells are what they are."""
    if length <= 8:
        return length
    return max(1, (length - 1) // factor + 1 if length % 2 else length // factor)


def _elements(case: Case) -> int:
    return sum(prod(a.shape) for a in arguments_of(case) if a.kind in INPUTS)


class Simulator:
    """The profile build's own functions, which no kernel needs."""

    def __init__(self) -> None:
        if reason := hostsim.build("profile"):
            raise RuntimeError(reason)
        self.path = Path(os.environ[_native.SIMULATOR])
        loaded = _native.module("cpu")
        if isinstance(loaded, str):
            raise RuntimeError(loaded)
        self._library = ctypes.CDLL(str(self.path))
        if not hasattr(self._library, "hostsim_profile_start"):
            raise RuntimeError(f"{self.path} is not a profile build; unset {_native.SIMULATOR}")
        for text in (self._library.hostsim_profile_stop, self._library.hostsim_profile_launches):
            text.restype = ctypes.c_char_p
        self._library.hostsim_profile_buffer.argtypes = ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t

    def start(self) -> None:
        self._library.hostsim_profile_start()

    def stop(self) -> tuple[list[Row], list[Launch]]:
        rows = [_row(*line.split("\t")) for line in self._library.hostsim_profile_stop().decode().splitlines()]
        launches = [line.split("\t") for line in self._library.hostsim_profile_launches().decode().splitlines()]
        return rows, [Launch(name, *map(int, numbers)) for name, *numbers in launches]

    def name(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Of the next launch's memory, by its storage, which a device allocates at a multiple of 512 bytes."""
        self._library.hostsim_profile_forget_buffers()
        named = set()
        for name, t in tensors:
            storage = t.untyped_storage()
            if storage.nbytes() and storage.data_ptr() not in named:
                named.add(storage.data_ptr())
                self._library.hostsim_profile_buffer(name.encode(), storage.data_ptr(), storage.nbytes())


def compiler() -> str:
    command = [hostsim.compiler() or "c++", "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


@functools.cache
def simulator() -> Simulator:
    return Simulator()


def _row(kernel: str, body: str, code: str, kind: str, buffer: str, *counts: str) -> Row:
    return Row(kernel, int(body), int(code), kind, buffer, Counter(dict(zip(COUNTS, map(int, counts), strict=True))))


class _Names:
    """Stands where the recorder of a call stands, to name the tensors of each launch as its op does."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.known = {t.untyped_storage().data_ptr(): name for name, t in leaves(arguments)}

    def native(self, ready: Any, each: list[Tensor | None]) -> None:
        caller = sys._getframe(2).f_locals
        local: dict[int, str] = {}
        for name, t in leaves(caller):
            local.setdefault(id(t), name)
        simulator().name(
            (self.known.get(t.untyped_storage().data_ptr()) or local.get(id(t)) or f"tensor {i}", t)
            for i, t in enumerate(each)
            if t is not None
        )

    def derived(self, *_: Any) -> None:
        pass


def profile(op: str, case: Case, dtype: torch.dtype, channels_last: bool, architecture: int = 90) -> Profile:
    """Rows of all kernels that ``case``, cut, launches in one forward and one backward call."""
    small = cut(op, case)
    native.SIMULATED_PROCESSORS, native.SIMULATED_ARCHITECTURE = small.processors, architecture
    native.multiprocessors.cache_clear()
    arguments = materialise(small.case, dtype, channels_last=channels_last)
    outputs, forward = _counted(arguments, lambda: call(op, arguments, "cuda"))
    passes = {"forward": forward}
    if outputs := [y for y in outputs if y.requires_grad]:
        dys = [torch.randn_like(y) for y in outputs]
        _, passes["backward"] = _counted(arguments, lambda: torch.autograd.backward(outputs, dys))
    return Profile(passes, small, spec(op).cost(small.case, dtype.itemsize).floor_bytes)


def _counted(arguments: dict[str, Any], fn: Callable[[], T]) -> tuple[T, Pass]:
    simulator().start()
    launch.local.recorder = _Names(arguments)  # type: ignore[assignment]
    try:
        with BaseTorchFunctionMode():  # watched, a call takes no short way in, which would not name its tensors
            result, library = watched(fn)
    finally:
        launch.local.recorder = None
        rows, launches = simulator().stop()
    if stray := [row for row in rows if row.buffer == "?"]:
        where = ", ".join(f"{row.kernel} at {places(stray)[row.code]}" for row in stray)
        raise RuntimeError(f"touched memory is no tensor of the launch: {where}")
    return result, Pass(rows, launches, library)


def totals(rows: list[Row]) -> dict[str, dict[str, int]]:
    """Per kernel what a prediction and a budget take: global requests and sectors, DRAM bytes, shared wavefronts."""
    kernels: dict[str, Counter[str]] = {}
    for row in rows:
        sums = kernels.setdefault(row.kernel, Counter())
        side = "shared" if row.buffer == "shared" else "load" if row.kind == "LDG" else "store"
        sums[f"{side}_requests"] += row.counts["requests"]
        if side == "shared":
            sums["shared_wavefronts"] += row.counts["wavefronts"]
            sums["shared_ideal_wavefronts"] += row.counts["ideal_wavefronts"]
        else:
            sums[f"{side}_sectors"] += row.counts["sectors"]
            sums[f"{side}_ideal_sectors"] += row.counts["ideal"]
            sums[f"{side}_past_l1_bytes"] += 32 * row.counts["block"]
            sums[f"{side}_once_bytes"] += 32 * row.counts["new"]
    return {kernel: dict(sorted(sums.items())) for kernel, sums in sorted(kernels.items())}


#: Headers of instructions and conversions: a row is named by whoever called them.
HELPERS = (
    "vec.cuh",
    "scalar.cuh",
    "intrinsics.h",
    "types.h",
    "cp_async.cuh",
    "ldmatrix.cuh",
    "hostsim.h",
    "launch.cuh",
    "device_atomic_functions.hpp",
)


def places(rows: list[Row]) -> dict[int, str]:
    """The source line of each row's instruction: "outer.cuh:12 < vec.cuh:31" where a helper was inlined."""
    found = {}
    for code, chain in frames({row.code for row in rows}).items():
        own, inner = outer([place for _, place in chain]), chain[0][1]
        found[code] = own if own == inner else f"{own} < {inner}"
    return found


def frames(codes: Iterable[int]) -> dict[int, list[tuple[str, str]]]:
    """Of each offset in the module the functions that hold it with a line of each, the innermost first."""
    command = ["addr2line", "-i", "-a", "-f", "-e", str(simulator().path)]
    asked = "\n".join(map(hex, sorted(codes)))
    text = iter(subprocess.run(command, input=asked, capture_output=True, text=True, check=True).stdout.splitlines())
    found: dict[int, list[tuple[str, str]]] = {}
    for line in text:
        if line.startswith("0x"):
            chain = found.setdefault(int(line, 16), [])
        else:
            chain.append((line, next(text).split(" ")[0].rsplit("/", 1)[-1]))
    return found


def outer(chain: Sequence[str]) -> str:
    """The innermost place that is in no helper."""
    return next((place for place in chain if not place.startswith(HELPERS)), chain[0])
