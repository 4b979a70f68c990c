"""Modules of unknown classes, compiled in place: their own graph, rewritten, with nothing behind it.

Dynamo takes seconds to import, so it is imported where it is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..backends import Backend, transform
from .report import GraphReport, Rewrite

#: Graphs that one forward may have, one per shape of its weights; Dynamo's own limit is for one model's sizes.
RECOMPILE_LIMIT = 64


class Compiled:
    """What a call of a module runs in place of its ``forward``; pickles and copies of the module do not have it."""

    def __init__(self, module: nn.Module, backend: Any) -> None:
        self.module = module
        self.compiled: Callable[..., Any] = torch.compile(module._call_impl, backend=backend)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or transform():
            return self.module._call_impl(*args, **kwargs)
        with _dynamo_config():
            return self.compiled(*args, **kwargs)


@contextmanager
def _dynamo_config() -> Iterator[None]:
    """What Dynamo must be asked for at every call, since any may compile.

    It does not look for hooks that a child gets later, a forward has one limit for all instances of its class, and a
    warning would break the graph in two: it comes after the graph.
    """
    config: Any = torch._dynamo.config
    before = {name: getattr(config, name) for name in _CONFIG}
    try:
        for name, change in _CONFIG.items():
            setattr(config, name, change(before[name]))
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


_CONFIG: dict[str, Callable[[Any], Any]] = {
    "skip_nnmodule_hook_guards": lambda _: False,
    "recompile_limit": lambda limit: max(limit, RECOMPILE_LIMIT),
    "reorderable_logging_functions": lambda functions: functions | {warnings.warn},
}


class FirstCall:
    """Looks for pyramids when a model is called for the first time, with what it is called with."""

    def __init__(self, model: nn.Module, look: Callable[[tuple[Any, ...], dict[str, Any]], Any]) -> None:
        self.model, self.look = model, look

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (torch.compiler.is_compiling() or torch.jit.is_tracing() or transform()):
            self.model._compiled_call_impl = None
            self.look(args, kwargs)
            return self.model(*args, **kwargs)
        return self.model._call_impl(*args, **kwargs)


def is_compiled(module: nn.Module) -> bool:
    """Whether a call of ``module`` runs its rewritten graph."""
    return isinstance(module._compiled_call_impl, Compiled)


def holds(outer: str, inner: str) -> bool:
    """Whether the module at one path is, or holds, that at another."""
    return not outer or inner == outer or inner.startswith(f"{outer}.")


def outermost(paths: set[str]) -> list[str]:
    """The paths that no other one holds."""
    return sorted(path for path in paths if not any(other != path and holds(other, path) for other in paths))


def pyramids(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], backend: Backend) -> list[Rewrite]:
    """Every pyramid in a call of ``model``: its op or why not, and the smallest module around it."""
    from .record import recorded
    from .rewrite import rewrite

    return rewrite(recorded(model, args, kwargs), backend)


def compile_in_place(modules: list[nn.Module], backend: Backend) -> GraphReport:
    """Compile every one of ``modules``; those of one class share their graphs. What comes of it is in the report."""
    from .backend import Options, Reporting

    shared = Reporting(Options(inner="eager", backend=backend))
    for module in modules:
        module._compiled_call_impl = Compiled(module, shared)
    return shared.report


def restore(module: nn.Module) -> None:
    """Take what this file put in the place of a module's call away."""
    if isinstance(module._compiled_call_impl, Compiled | FirstCall):
        module._compiled_call_impl = None
