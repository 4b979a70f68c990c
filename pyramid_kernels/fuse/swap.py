"""``fuse_``, ``unfuse_`` and ``fused``: an instance's class is swapped for a subclass with a fused forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..backends import Backend
from ..nn import structure
from ..nn.base import Fused, check_backend, to_channels_last
from . import check, registry
from .report import Entry, FuseError, FuseReport

#: Instance attribute of a swapped module: the strides that its re-strided weights had.
STRIDES = "original_strides"


def fuse_(
    model: nn.Module,
    only: str | Sequence[str] | None = None,
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    backend: Backend = "auto",
    strict: bool = False,
    example_input: Any = None,
) -> FuseReport:
    """Fuse, in place, every pyramid module of ``model`` that is known and verified.

    A fused module keeps its parameters, buffers, hooks and ``state_dict``; it becomes an instance of a subclass of its
    own class. 3x3 weights become channels_last: the same Parameters with the same values. Call it before wrapping in
    DDP; ``unfuse_`` undoes it exactly. Fusing again changes nothing but the backend.

    Args:
        model: any module; it is searched with all its descendants.
        only: paths, or patterns such as "classifier.*", of the modules to consider ("" is the model itself).
        filter_fn: ``filter_fn(module, path)``, True for the modules to consider.
        backend: "auto", "cuda", "triton", "composed" or "reference", for every op of the fused modules.
        strict: raise where nothing was fused.
        example_input: a tensor, a tuple of arguments or a dict of keyword arguments. The model runs on it before and
            after, in the mode it stands in, and everything the runs change is put back.

    Returns:
        FuseReport: printing it lists every module that is fused (ops and backends) or was skipped (why).

    Raises:
        FuseError: nothing was fused under ``strict``, or ``example_input`` gave another result; BackendError: the named
            backend cannot run. The model is then as it was before. TypeError, ValueError: naming the argument.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if any(isinstance(m, DistributedDataParallel) for m in model.modules()):
        raise ValueError("model is already wrapped in DistributedDataParallel; call fuse_ before wrapping it")
    check_backend(backend)
    registry.load_libraries()
    chosen = _chosen(model, only, filter_fn)
    before = None if example_input is None else check.run(model, example_input)
    swapped: list[nn.Module] = []
    try:
        report = FuseReport([e for path, m in chosen if (e := _consider(path, m, backend, swapped)) is not None])
        if strict and not report.fused:
            raise FuseError(f"nothing was fused:\n{report}")
        if example_input is not None:
            reason = check.difference(before, check.run(model, example_input))
            if reason:
                raise FuseError(f"the fused model gives another result on example_input: {reason}\n{report}")
    except BaseException:
        for module in swapped:
            _restore(module)
        raise
    return report


def unfuse_(model: nn.Module) -> list[str]:
    """Undo ``fuse_`` on every module of ``model``, strides included, and return the paths of those it had fused."""
    paths = []
    for path, module in model.named_modules():
        if STRIDES in vars(module):
            _restore(module)
            paths.append(path)
    return paths


@contextmanager
def fused(model: nn.Module, *args: Any, **kwargs: Any) -> Iterator[FuseReport]:
    """``fuse_`` for the length of a ``with`` block, which gets the report; modules fused before it stay fused."""
    already = {id(module) for module in model.modules() if STRIDES in vars(module)}
    report = fuse_(model, *args, **kwargs)
    try:
        yield report
    finally:
        for module in model.modules():
            if STRIDES in vars(module) and id(module) not in already:
                _restore(module)


def _chosen(
    model: nn.Module, only: str | Sequence[str] | None, filter_fn: Callable[[nn.Module, str], bool] | None
) -> list[tuple[str, nn.Module]]:
    found = list(model.named_modules())
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
        if STRIDES in vars(module):
            module.kernel_backend = backend
        return Entry(path, cls.__name__, True, f"already fused; {_decisions(module)}")
    known = registry.known_class(cls)
    if known is None:
        reason = registry.notes.get(cls) or _look_alike(module)
        return Entry(path, cls.__name__, False, reason) if reason else None
    adapter = registry.adapters[known]
    reason = _overridden(module, known, adapter)
    reason = reason or structure.why_not_children(module, adapter.called) or adapter.why_not(module)
    fused_class = registry.fused_class(cls, adapter)
    reason = reason or check.self_check(module, fused_class, fused_class is adapter)
    if reason is not None:
        return Entry(path, cls.__name__, False, reason)
    swapped.append(module)
    _swap(module, fused_class, backend)
    # Only now: channels_last weights change the own forward's memory format, and with it its dropout mask.
    if fused_class.channels_last_weights:
        setattr(module, STRIDES, to_channels_last(module))
    details = (check.why_unchecked(module), _decisions(module))  # type: ignore[arg-type]
    return Entry(path, cls.__name__, True, "; ".join(filter(None, details)))


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


def _decisions(module: Fused) -> str:
    """The backends for a small batch of float maps, in the mode the module stands in."""
    value = module.like(module).new_empty(1)

    def new(channels: int, stride: int) -> Tensor:
        side = max(1, 256 // stride)
        return value.expand(2, channels, side, side)

    x = module.example(module, new)
    with torch.set_grad_enabled(module.training):
        return ", ".join(module.decisions(x))


def _swap(module: nn.Module, cls: Any, backend: Backend) -> None:
    module.__class__ = cls
    module.kernel_backend = backend  # type: ignore[assignment]
    setattr(module, STRIDES, {})


def _restore(module: nn.Module) -> None:
    """The class and the strides that the module had before ``_swap``."""
    state = vars(module)
    strides = state.pop(STRIDES)
    del state["kernel_backend"]
    for name, stride in strides.items():
        parameter = module.get_parameter(name)
        plain = torch.empty_strided(parameter.shape, stride, dtype=parameter.dtype, device=parameter.device)
        parameter.data = plain.copy_(parameter.data)
    module.__class__ = module.original  # type: ignore[assignment]
