"""What is timed: every op on its spec's BENCH cases, and the modules, each as calls of the same work."""

from __future__ import annotations

import copy
import importlib
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from pyramid_kernels import functional, fuse_
from pyramid_kernels.backends import KERNELS, Op, cannot, select
from pyramid_kernels.ops import all_ops
from pyramid_kernels.ops._shared.spec import Arg, Case, Cost, arguments_of, map_args, materialise

from .modules import MODULES, Build

MODES = ("forward", "training")
EAGER, COMPILE = "eager", "compile"
#: Eager with torch.backends.cudnn.deterministic: what bitwise repeatable convolutions cost without us.
DETERMINISTIC = "deterministic"
#: What a forward call may cost for a case to be among the quick ones: under a second on two CPU cores.
QUICK_FLOP = 4e10

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
    outputs: dict[str, Fn] = field(default_factory=dict)  # forward alone, for the check that precedes timing

    @property
    def name(self) -> str:
        return f"{self.op}/{self.case}/{self.mode}"

    def same_path(self, provider: str) -> bool:
        return provider != EAGER and self.paths[provider] == self.paths[EAGER]


def op_names() -> list[str]:
    return [*all_ops(), *MODULES]


def modes_of(name: str) -> tuple[str, ...]:
    """The modes of an op or module: an op without gradients has no training."""
    trained = name in MODULES or any(a.grad for case in _spec(name).BENCH for a in arguments_of(case))
    return MODES if trained else MODES[:1]


def case_names(name: str, quick: bool) -> list[str]:
    """The ids of an op's BENCH cases, or of a module's shapes."""
    return list(MODULES[name]) if name in MODULES else [case.id for case in _cases(name, quick)]


def _cases(op: str, quick: bool) -> list[Case]:
    """The op's BENCH cases; ``quick``: one image each, no case twice, none above QUICK_FLOP."""
    spec = _spec(op)
    if not quick:
        return list(spec.BENCH)
    distinct = {repr(case.args): case for case in map(one_image, reversed(spec.BENCH))}
    return [case for case in reversed(distinct.values()) if spec.cost(case, 4).total <= QUICK_FLOP]


def _spec(op: str) -> Any:
    return importlib.import_module(f"pyramid_kernels.ops.{op}.spec")


def subjects(
    name: str, device: str, dtype: torch.dtype, *, modes: tuple[str, ...] = MODES, quick: bool = False,
    compiled: bool = True, channels_last: bool = True, only: str | None = None,
) -> Iterator[Subject]:  # fmt: skip
    """Every subject of an op or module, or those of case ``only``; ``quick`` takes cases of one image."""
    if name in MODULES:
        for shape, build in MODULES[name].items():
            if only in (None, shape):
                yield from (_of_module(name, shape, build, mode, device, dtype, quick, compiled) for mode in modes)
        return
    op = all_ops()[name]
    for case in _cases(name, quick):
        if only in (None, case.id):
            yield from (_of_op(op, case, mode, device, dtype, channels_last, compiled) for mode in modes)


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
    paths = {"auto": chosen}
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
    cost = _spec(op.name).cost(case, dtype.itemsize)
    return Subject(op.name, case.id, mode, dtype, calls, paths, cost if mode == "forward" else None)


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
        y = y[0] if isinstance(y, tuple) else y
        if not gradients:
            gradients.append(torch.randn_like(y))
        torch.autograd.grad(y, leaves, gradients[0], allow_unused=True)

    return train


def _of_module(
    name: str, case: str, build: Build, mode: str, device: str, dtype: torch.dtype, quick: bool, compiled: bool
) -> Subject:
    """The module as its author wrote it, against the same one behind ``fuse_``."""
    torch.manual_seed(0)
    plain, shapes = build()
    plain.to(device, dtype, memory_format=torch.channels_last).train(mode == "training")
    fused: Any = copy.deepcopy(plain)
    fuse_(fused, only="", strict=True)
    one = quick and mode == "forward"

    def random(shape: tuple[int, ...]) -> Tensor:
        x = torch.randn(1 if one else shape[0], *shape[1:]).to(device, dtype)
        return x.contiguous(memory_format=torch.channels_last).requires_grad_()

    def called(module: Any, x: Any) -> Any:
        return module(*x) if fused.spreads_maps else module(x)

    x: Any = [random(shape) for shape in shapes] if isinstance(shapes, list) else random(shapes)
    forwards: dict[str, Fn] = {"auto": lambda: called(fused, x), EAGER: lambda: called(plain, x)}
    with torch.set_grad_enabled(mode == "training"):
        paths = {"auto": _module_path(fused, x), EAGER: "original"}
    if compiled and can_compile(device):
        forwards[COMPILE], paths[COMPILE] = compile_call(forwards[EAGER], device), "inductor"
    calls = {
        provider: _timed(fn, [*_leaves(x), *(fused if provider == "auto" else plain).parameters()], mode)
        for provider, fn in forwards.items()
    }
    exact = [t.detach().double() for t in _leaves(x)]
    outputs = {
        "auto": forwards["auto"],
        EAGER: forwards[EAGER],
        "exact": lambda: called(copy.deepcopy(plain).double(), exact if isinstance(x, list) else exact[0]),
    }
    return Subject(name, case, mode, dtype, calls, paths, outputs=outputs)


def _module_path(module: Any, x: Any) -> str:
    decisions = module.decisions(x)
    return "original" if decisions[0].startswith("original") else ", ".join(decisions)
