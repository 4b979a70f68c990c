"""``fuse_``, ``unfuse_`` and ``fused``: an instance's class is swapped for a subclass with a fused forward."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..backends import Backend, automatic
from ..graph import inplace
from ..graph.report import TRAINING
from ..nn.base import Fused, check_backend, hooked, why_not_children
from ..nn.runs import same_modes
from ..proving.prover import Prover
from . import check, keep, registry
from .report import Entry, FuseError, FuseReport

#: Instance attribute that a swapped module has, and a module of this package has not.
SWAPPED = "swapped_in_place"


def fuse_(
    model: nn.Module,
    only: str | Sequence[str] | None = None,
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    backend: Backend = "auto",
    strict: bool = False,
    example_input: Any = None,
    prove: bool = True,
) -> FuseReport:
    """Fuse, in place, every pyramid module of ``model`` that is known and verified.

    A fused module keeps its parameters as they lie in memory, its buffers, hooks and ``state_dict``; it becomes an
    instance of a subclass of its own class. So optimisers, checkpoints and anything else that holds its parameters go
    on as before. Call it before wrapping in DDP; ``unfuse_`` undoes it. Fusing again changes nothing but the backend.

    Args:
        model: any module; it is searched with all its descendants.
        only: paths, or patterns such as "classifier.*", of the modules to consider ("" is the model itself).
        filter_fn: ``filter_fn(module, path)``, True for the modules to consider.
        backend: "auto", "cuda", "triton", "composed" or "reference", for every op of the fused modules.
        strict: raise where nothing was fused.
        example_input: a tensor, a tuple of arguments or a dict of keyword arguments. The model runs on it before and
            after, in the mode it stands in, and everything the runs change is put back.
        prove: with an ``example_input`` and ``backend="auto"``, every op's forms are checked and timed on the problems
            of this call, in training with gradients; the fastest is remembered on this machine, and what is not faster
            than the unfused module is left.

    Returns:
        FuseReport: printing it lists every module that is fused (ops and backends) or was skipped (why).

    Raises:
        FuseError: nothing was fused under ``strict``, or ``example_input`` gave another result; BackendError: the named
            backend cannot run, in training or in evaluation. The model is then as it was before. TypeError, ValueError:
            naming the argument.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        kind = type(model).__name__
        raise TypeError(f"model must be a module in Python, got a {kind}; call fuse_ before torch.jit.script or trace")
    if any(isinstance(m, DistributedDataParallel) for m in model.modules()):
        raise ValueError("model is already wrapped in DistributedDataParallel; call fuse_ before wrapping it")
    if example_input is not None and check.holds_no_values(model, example_input):
        raise ValueError("example_input is run, but it or the model is on meta; leave it out, or load values first")
    check_backend(backend)
    registry.load_libraries()
    chosen = _chosen(model, only, filter_fn)
    prover = Prover(model.training) if prove and example_input is not None and automatic(backend) else None
    with nullcontext() if prover is None else _PROVING:
        return _fused(model, chosen, backend, strict, example_input, prover)


#: One proof at a time: it looks into the calls of all fused modules.
_PROVING = threading.RLock()


def _fused(
    model: nn.Module, chosen: list[tuple[str, nn.Module]], backend: Backend, strict: bool, example_input: Any,
    prover: Prover | None,
) -> FuseReport:  # fmt: skip
    before = None if example_input is None or prover else check.run(model, example_input)
    already = [(module, _state(module)) for _, module in chosen if is_fused(module)]
    considered = {module for _, module in chosen} - set(_compiled_by_others(model))
    swapped: list[nn.Module] = []
    try:
        report = FuseReport([e for path, m in chosen if (e := _consider(path, m, backend, swapped)) is not None])
        with nullcontext() if prover is None else prover.at_work():
            if prover is not None:
                before = keep.settle(model, example_input, prover, considered)
            if chosen and not isinstance(model, Fused):
                swapped += _consider_graphs(model, chosen, backend, report, example_input)
        if prover is not None:
            got, kept = keep.timed(model, example_input, considered)
        elif example_input is not None:
            got = check.run(model, example_input)
        if example_input is not None and (reason := check.difference(before, got)):
            raise FuseError(f"the fused model gives another result on example_input: {reason}\n{report}")
        if prover is not None:
            report.refused = dict(prover.refused)
            _keep_faster(model, example_input, report, kept, considered)
        if strict and not report.fused:
            raise FuseError(f"nothing was fused:\n{report}")
    except BaseException:
        for module in swapped:
            _restore(module)
        _put_back(already)
        raise
    return report


def _state(module: nn.Module) -> tuple[type[nn.Module], Any, Any]:
    """What fusing changes of a module."""
    return type(module), vars(module).get("kernel_backend"), module._compiled_call_impl


def _put_back(states: list[tuple[nn.Module, Any]]) -> None:
    for module, (cls, backend, call) in states:
        if type(module) is not cls:
            _swap(module, cls, backend)
        elif SWAPPED in vars(module):
            module.kernel_backend = backend
        module._compiled_call_impl = call


def _compiled_by_others(model: nn.Module) -> Iterator[nn.Module]:
    """Modules whose calls run in code that their owner compiled, where nothing of ours can be timed."""
    wrappers = (torch._dynamo.OptimizedModule,) if "torch._dynamo" in sys.modules else ()
    for module in model.modules():
        ours = isinstance(module._compiled_call_impl, inplace.Compiled | inplace.FirstCall | None)
        if not ours or isinstance(module, wrappers):
            yield from module.modules()


def unfuse_(model: nn.Module) -> list[str]:
    """Undo ``fuse_`` on every module of ``model`` and return the paths of those it had fused."""
    paths = []
    for path, module in model.named_modules():
        if is_fused(module):
            paths.append(path)
        _restore(module)
    return paths


def is_fused(module: nn.Module) -> bool:
    """Whether ``fuse_`` has changed what a call of ``module`` runs."""
    return SWAPPED in vars(module) or inplace.is_compiled(module)


@contextmanager
def fused(model: nn.Module, *args: Any, **kwargs: Any) -> Iterator[FuseReport]:
    """``fuse_`` for the length of a ``with`` block, which gets the report; modules fused before it stay fused."""
    already = [(module, _state(module)) for module in model.modules() if is_fused(module)]
    report = fuse_(model, *args, **kwargs)
    try:
        yield report
    finally:
        fused_before = {id(module) for module, _ in already}
        for module in model.modules():
            if id(module) not in fused_before:
                _restore(module)
        _put_back(already)


def _chosen(
    model: nn.Module, only: str | Sequence[str] | None, filter_fn: Callable[[nn.Module, str], bool] | None
) -> list[tuple[str, nn.Module]]:
    found = [(path, m) for path, m in model.named_modules() if not isinstance(m, torch.jit.ScriptModule)]
    if only is not None:
        patterns = [only] if isinstance(only, str) else list(only)
        paths = [path for path, _ in found]
        for pattern in patterns:
            if not any(fnmatchcase(path, pattern) for path in paths):
                close = get_close_matches(pattern, paths, 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ValueError(f"only must name modules of the model, got {pattern!r}{hint}")
        found = [(path, m) for path, m in found if any(fnmatchcase(path, pattern) for pattern in patterns)]
    return [(path, m) for path, m in found if filter_fn is None or filter_fn(m, path)]


def _consider(path: str, module: nn.Module, backend: Backend, swapped: list[nn.Module]) -> Entry | None:
    """Fuse ``module`` if it can be; None where it has nothing to do with pyramids."""
    cls = type(module)
    if isinstance(module, Fused):
        if SWAPPED in vars(module):
            module.kernel_backend = backend
        return _entry(path, cls.__name__, module, "already fused")
    known = registry.known_class(cls)
    if known is None:
        reason = _look_alike(module)
        return Entry(path, cls.__name__, False, reason) if reason else None
    adapter = registry.adapters[known]
    fused_class = registry.fused_class(cls, adapter)
    try:
        reason = _overridden(module, known, adapter)
        reason = reason or why_not_children(module, adapter.called) or adapter.why_not(module)
        reason = reason or check.self_check(module, fused_class, fused_class is adapter)
    except Exception as error:  # whatever is peculiar about one module must not keep the others from being fused
        reason = f"checking it failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if reason is not None:
        return Entry(path, cls.__name__, False, reason)
    swapped.append(module)
    _swap(module, fused_class, backend)
    return _entry(path, cls.__name__, module, check.why_unchecked(module))


def _consider_graphs(
    model: nn.Module, chosen: list[tuple[str, nn.Module]], backend: Backend, report: FuseReport, example_input: Any
) -> list[nn.Module]:
    """Find the pyramids of modules of unknown classes in the graph of a call, now or at the first one, and compile the
    smallest modules around them in place; returns what it changed."""

    unread: list[Entry] = []

    def wait() -> None:
        report.waiting = True

    def look(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[nn.Module] | None:
        report.waiting = False
        report.entries[:] = [e for e in report.entries if e not in unread]
        paths = dict(chosen)
        try:
            found = inplace.pyramids(model, args, kwargs, backend)
        except Exception as error:  # whatever is peculiar about a model must not keep it from running
            text = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            unread[:] = [Entry("", type(model).__name__, False, f"its graph could not be read: {text}")]
            report.entries += unread
            return None
        report.pyramids += [r for r in found if r.module in paths]
        taken = [r for r in report.pyramids if r.fused or (model.training and r.detail == TRAINING)]
        around = inplace.outermost({r.module for r in taken})
        report.entries[:] = [e for e in report.entries if e.fused or e.path not in {r.module for r in taken}]
        for path in around:
            inside = [r for r in taken if inplace.holds(path, r.module)]
            ran = dict.fromkeys(word for r in inside if r.fused for word in r.detail.split(", "))
            ran = ran or dict.fromkeys(r.detail for r in inside)
            detail, idle = f"through its graph; {', '.join(ran)}", not any(r.fused for r in inside)
            report.entries.append(Entry(path, type(paths[path]).__name__, True, detail, idle))
        modules = [paths[path] for path in around]
        report.compiled = inplace.compile_in_place(modules, backend)
        return modules

    for module in (model, *(m for _, m in chosen)):
        inplace.restore(module)  # what an earlier call has put there was for another backend, or report
    if example_input is not None:
        return look(*check.as_arguments(example_input)) or []
    if model._compiled_call_impl is None:
        wait()
        model._compiled_call_impl = inplace.FirstCall(model, look, wait)
        return [model]
    return []


def _keep_faster(
    model: nn.Module, example_input: Any, report: FuseReport, kept: dict[nn.Module, keep.Kept],
    considered: set[nn.Module],
) -> None:  # fmt: skip
    """Undo the swaps that are not faster on ``example_input``; what a module left alone then calls may be faster."""
    paths = {module: path for path, module in model.named_modules()}
    places = {entry.path: i for i, entry in enumerate(report.entries)}
    while kept:
        slower = False
        for module, found in kept.items():
            i = places.get(paths.get(module, ""))
            if i is None:
                continue
            detail = f"through its graph; {found.ran}" if inplace.is_compiled(module) else found.ran
            entry = replace(report.entries[i], idle=False, ratio=found.ratio, error=found.error, detail=detail)
            if is_fused(module) and not found.wins:
                slower = True
                _restore(module)
                entry = replace(entry, fused=False, detail=found.why)
                inside = [r.fused and inplace.holds(paths[module], r.module) for r in report.pyramids]
                pairs = zip(report.pyramids, inside, strict=True)
                report.pyramids = [replace(r, fused=False, detail=found.why) if within else r for r, within in pairs]
            report.entries[i] = entry
        kept = keep.timed(model, example_input, considered)[1] if slower else {}
    ran = [f"{entry.path}: {entry.detail}" for entry in report.fused]
    if ran and not any(map(hooked, model.modules())):  # whose hooks would run once a round
        report.speedup = keep.speedup(model, example_input, ran)


def _entry(path: str, cls: str, module: Any, remark: str | None) -> Entry:
    """The line of a fused module: what runs in the mode it stands in. BackendError where a mode has no backend."""
    idle, chosen = _decisions(module)
    with same_modes(module):
        module.train(not module.training)
        _decisions(module)
    return Entry(path, cls, True, "; ".join(filter(None, (remark, chosen))), idle)


def _overridden(module: nn.Module, known: type[nn.Module], adapter: type[Fused]) -> str | None:
    """Why ``module`` is not what ``known`` is: a forward, or a method that it calls, is another one."""
    for name in ("forward", *adapter.helpers):
        if name in vars(module):
            return f"this instance has its own {name}"
        if getattr(type(module), name, None) is not getattr(known, name, None):
            return f"its class overrides the {name} of {known.__name__}"
    return None


def _look_alike(module: nn.Module) -> str | None:
    cls = type(module).__name__
    if type(module) in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
        return None  # everybody's: no class to register
    for name, layout in registry.layouts.items():
        if layout.looks_like(module):
            return f"look-alike of {name}, of an unknown class; register_adapter({cls}, fuse.{layout.__name__})"
    return None


def _decisions(module: Fused) -> tuple[bool, str]:
    """Whether the original forward runs on a small batch of float maps, and the backends or why it does."""
    value = module.like(module).new_empty(1)

    def new(channels: int, stride: int) -> Tensor:
        side = max(1, 256 // stride)
        return value.expand(2, channels, side, side)

    x = module.example(module, new)
    with torch.set_grad_enabled(module.training):
        return module.why_original(x) is not None, ", ".join(module.decisions(x))


def _swap(module: nn.Module, cls: Any, backend: Backend) -> None:
    module.__class__ = cls
    module.kernel_backend = backend  # type: ignore[assignment]
    setattr(module, SWAPPED, True)


def _restore(module: nn.Module) -> None:
    """The class that the module had before ``_swap``, and nothing that was added to it since."""
    inplace.restore(module)
    if SWAPPED in vars(module):
        for name in (SWAPPED, *Fused.added):
            vars(module).pop(name, None)
        module.__class__ = module.original  # type: ignore[assignment]
