"""What is timed: every op on its spec's BENCH cases, and the modules, each as calls of the same work."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from .. import functional, fuse_
from ..backends import KERNELS, Op, cannot, select
from ..ops import all_ops, spec
from ..ops._shared.spec import Arg, Case, Cost, arguments_of, map_args, materialise
from . import timing
from .modules import MODULES, QUICK, Build

MODES = ("forward", "training")
EAGER, COMPILE = "eager", "compile"
SAME = " same path"
#: Eager with torch.backends.cudnn.deterministic: what bitwise repeatable convolutions cost without us.
DETERMINISTIC = "deterministic"
#: What a forward call may cost for a case to be timed on a CPU: under a second on two cores.
CPU_FLOP = 4e10

Fn = Callable[[], Any]


@dataclass
class Subject:
    """One piece of work and everyone who does it; each call runs it once, backward included for "training"."""

    op: str
    case: str
    mode: str
    dtype: torch.dtype
    calls: dict[str, Fn]
    paths: dict[str, str]  # provider -> which code runs
    cost: Cost | None = None
    forwards: dict[str, Fn] = field(default_factory=dict)  # without a backward, for the check that precedes timing

    @property
    def name(self) -> str:
        return f"{self.op}/{self.case}/{self.mode}"

    def ratio(self, provider: str, times: dict[str, list[float]]) -> str:
        """Eager's time over the provider's, and whether both ran the same code: then it says what is around it."""
        same = provider != EAGER and self.paths[provider] == self.paths[EAGER]
        return f"{timing.paired_ratio(times[EAGER], times[provider]):.2f}{SAME if same else ''}"


def op_names() -> list[str]:
    return [*all_ops(), *MODULES]


def modes_of(name: str) -> tuple[str, ...]:
    """The modes of an op or module: an op without gradients has no training."""
    trained = name in MODULES or any(a.grad for case in spec(name).BENCH for a in arguments_of(case))
    return MODES if trained else MODES[:1]


def work(
    name: str, device: str, quick: bool = False, modes: tuple[str, ...] = MODES
) -> dict[tuple[str, str], Case | Build]:
    """What is timed of an op or module: (case, mode) -> its Case or Build.

    On a CPU one image, but in a module's training, and nothing above CPU_FLOP. ``quick``: the smallest case alone.
    """
    found: dict[tuple[str, str], Case | Build] = {}
    for mode in modes_of(name):
        if mode in modes:
            cases = _builds(name, mode, device, quick) if name in MODULES else _cases(name, device, quick)
            found |= {(case, mode): what for case, what in cases.items()}
    return found


def _cases(op: str, device: str, quick: bool) -> dict[str, Case]:
    own = spec(op)
    cases = {case.id: case for case in own.BENCH}
    if quick or device == "cpu":
        distinct = {repr(case.args): case for case in map(one_image, reversed(own.BENCH))}
        cases = {c.id: c for c in reversed(distinct.values()) if device != "cpu" or own.cost(c, 4).total <= CPU_FLOP}
    smallest = min(cases, key=lambda name: own.cost(cases[name], 4).total)
    return {smallest: cases[smallest]} if quick else cases


def _builds(name: str, mode: str, device: str, quick: bool) -> dict[str, Build]:
    builds = MODULES[name]
    if quick:
        smallest = min(builds, key=lambda build: (sum(map(prod, build.shapes)), build.images))
        builds = [QUICK.get(name, smallest)]
    if mode == "forward" and (quick or device == "cpu"):
        builds = [build._replace(images=1) for build in builds]
    return {build.case: build for build in builds}


def subjects(
    name: str, device: str, dtype: torch.dtype, *, modes: tuple[str, ...] = MODES, quick: bool = False,
    compiled: bool = True, channels_last: bool = True, only: str | None = None,
) -> Iterator[Subject]:  # fmt: skip
    """Every subject of an op or module, or those of case ``only``."""
    for (case, mode), what in work(name, device, quick, modes).items():
        if only not in (None, case):
            continue
        if isinstance(what, Build):
            yield _of_module(name, what, mode, device, dtype, compiled)
        else:
            yield _of_op(all_ops()[name], what, mode, device, dtype, channels_last, compiled)


def one_image(case: Case) -> Case:
    """``case`` with N = 1, and named so."""

    def first(a: Arg) -> Arg:
        return replace(a, shape=(1, *a.shape[1:])) if a.kind in ("map", "cells", "distinct", "labels") else a

    args = {name: map_args(first, value) for name, value in case.args.items()}
    return replace(case, id=re.sub(r"-n\d+$", "", case.id) + "-n1", args=args)


def _of_op(
    op: Op, case: Case, mode: str, device: str, dtype: torch.dtype, channels_last: bool, compiled: bool
) -> Subject:
    tensors = materialise(case, dtype, device, channels_last, seed=1)
    public = getattr(functional, op.name)
    with torch.set_grad_enabled(mode == "training"):  # what is chosen may depend on it
        problem, sizes = next(e[1:] for e in public.problems(**tensors) if e[0] is op)
        chosen = select(op, problem, sizes, "auto")
    eager = unfused(op, tensors)
    forwards: dict[str, Fn] = {"auto": lambda: public(**tensors)}
    paths: dict[str, str] = {"auto": chosen}
    for backend in ("composed", *(KERNELS if device != "cpu" else ())):
        if cannot(op, problem, backend) is None and (device != "cpu" or paths["auto"] != backend):
            forwards[backend] = _forced(public, tensors, backend)
            paths[backend] = backend
    forwards[EAGER], paths[EAGER] = eager, "reference"
    if compiled and can_compile(device):
        forwards[COMPILE], paths[COMPILE] = compile_call(eager, device), "inductor"
    leaves = _leaves(tensors)
    calls = {name: _timed(fn, leaves, mode) for name, fn in forwards.items()}
    if device != "cpu" and op.bound == "gemm":
        calls[DETERMINISTIC], paths[DETERMINISTIC] = _deterministic(calls[EAGER]), "reference, deterministic"
    cost = spec(op.name).cost(case, dtype.itemsize)
    return Subject(op.name, case.id, mode, dtype, calls, paths, cost if mode == "forward" else None, forwards)


def _forced(public: Callable[..., Any], tensors: dict[str, Any], backend: str) -> Fn:
    return lambda: public(**tensors, backend=backend)


def _deterministic(call: Fn) -> Fn:
    def flagged() -> Any:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=True):
            return call()

    return flagged


def unfused(op: Op, tensors: dict[str, Any]) -> Fn:
    """The reference on these arguments, without the front end's checks: what eager PyTorch runs."""
    reference = getattr(op.reference, op.name)
    with mock.patch.object(op.reference, op.name, side_effect=reference) as recorder, torch.no_grad():
        getattr(functional, op.name)(**tensors, backend="reference")
    (args, kwargs) = recorder.call_args
    return lambda: reference(*args, **kwargs)


def can_compile(device: str) -> bool:
    """Whether torch.compile has a compiler here: Triton on a GPU, a C++ compiler on a CPU."""
    return device != "cpu" or shutil.which("g++") is not None or shutil.which("clang++") is not None


def compile_call(fn: Fn, device: str) -> Fn:
    """Tuned as far as it goes on a GPU; without its own graphs, which are measured apart."""
    return torch.compile(
        fn, fullgraph=True, dynamic=False, mode=None if device == "cpu" else "max-autotune-no-cudagraphs"
    )


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.requires_grad else []
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [leaf for item in items for leaf in _leaves(item)]


def _timed(forward: Fn, leaves: list[Tensor], mode: str) -> Fn:
    if mode == "forward":

        def infer() -> None:
            with torch.no_grad():
                forward()

        return infer

    gradients: list[Tensor] = []

    def train() -> None:
        y = forward()
        outputs = y if isinstance(y, list) else [y[0] if isinstance(y, tuple) else y]
        if not gradients:
            gradients.extend(map(torch.randn_like, outputs))
        torch.autograd.grad(outputs, leaves, gradients, allow_unused=True)

    return train


def _of_module(name: str, build: Build, mode: str, device: str, dtype: torch.dtype, compiled: bool) -> Subject:
    """The module as its author wrote it, against the same one behind ``fuse_``."""
    torch.manual_seed(0)
    plain = build.make()
    plain.to(device, dtype, memory_format=torch.channels_last).train(mode == "training")
    fused: Any = copy.deepcopy(plain)
    fuse_(fused, only="", strict=True)

    def random(shape: tuple[int, ...]) -> Tensor:
        x = torch.randn(build.images, *shape).to(device, dtype)
        return x.contiguous(memory_format=torch.channels_last).requires_grad_()

    def called(module: Any, x: Any) -> Any:
        return module(*x) if fused.spreads_maps else module(x)

    maps = [random(shape) for shape in build.shapes]
    x: Any = maps if isinstance(build.maps, list) else maps[0]
    forwards: dict[str, Fn] = {"auto": lambda: called(fused, x), EAGER: lambda: called(plain, x)}
    with torch.set_grad_enabled(mode == "training"):
        paths = {"auto": _module_path(fused, x), EAGER: "original"}
    if compiled and can_compile(device):
        forwards[COMPILE], paths[COMPILE] = compile_call(forwards[EAGER], device), "inductor"
    calls = {
        provider: _timed(fn, [*maps, *(fused if provider == "auto" else plain).parameters()], mode)
        for provider, fn in forwards.items()
    }
    return Subject(name, build.case, mode, dtype, calls, paths, forwards=forwards)


def _module_path(module: Any, x: Any) -> str:
    decisions = module.decisions(x)
    return "original" if decisions[0].startswith("original") else ", ".join(decisions)
