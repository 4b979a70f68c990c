"""Modules of unknown classes, compiled in place: their own graph, rewritten, with nothing behind it.

Dynamo takes seconds to import, so it is imported where it is used.
"""

from __future__ import annotations

import functools
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from ..backends import Backend, transform
from .report import GraphReport, Rewrite, following

#: Graphs that one forward may have: for all its instances, one per shape of weights, mode and size that is no symbol.
RECOMPILE_LIMIT = 1024


class _Local(threading.local):
    report = GraphReport()  # of the module that this thread is calling


_local = _Local()


class Compiled:
    """What a call of a module runs in place of its ``forward``; pickles and copies of the module do not have it."""

    def __init__(self, module: nn.Module, backend: Any, report: GraphReport) -> None:
        self.module, self.report = module, report
        self.compiled = _compiled(module._call_impl, backend)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        called = _called(self.module)
        if called is not self.module or torch.compiler.is_compiling() or torch.jit.is_tracing() or transform():
            return called._call_impl(*args, **kwargs)
        _local.report = self.report
        with following(called, self.report):
            try:
                return self.compiled(*args, **kwargs)
            except torch._dynamo.exc.TorchRuntimeError:  # an op refuses its inputs: Dynamo stops there
                why = "goes on after an error, where Dynamo stops"
            except torch._dynamo.exc.BackendCompilerFailed as error:
                if not isinstance(error.inner_exception, WritingCheckpoint):
                    raise
                why = "has a checkpoint that writes to buffers, which Dynamo's graphs do not recompute"
        result = called._call_impl(*args, **kwargs)  # which raises the model's own error, unless its forward goes on
        restore(self.module)
        detail = f"{type(called).__name__} {why}: it runs unfused from now on"
        self.report.graphs[self.module] = [Rewrite("graph", "", "", False, detail)]
        return result


def _compiled(call: Callable[..., Any], backend: Any) -> Callable[..., Any]:
    """``torch.compile(call, backend=backend)``, whose frames are compiled under a configuration of their own.

    To change it around every call, since any may compile, takes four times as long as Dynamo's guards.
    """
    from torch._dynamo.convert_frame import CatchErrorsWrapper

    class Configured(CatchErrorsWrapper):
        def __call__(self, *frame: Any) -> Any:
            with _dynamo_config():
                return super().__call__(*frame)

    context: Any = torch._dynamo.optimize(backend=backend)
    context.callback = Configured(context.callback._torchdynamo_orig_backend, context.callback.hooks)
    return context(call)


@contextmanager
def _dynamo_config() -> Iterator[None]:
    """What Dynamo is asked for where it compiles.

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
    "accumulated_recompile_limit": lambda limit: max(limit, RECOMPILE_LIMIT),
    "reorderable_logging_functions": lambda functions: functions | {warnings.warn},
}


class FirstCall:
    """Looks for pyramids when a model is called for the first time, with what it is called with.

    ``look`` gives None where the graph could not be read. If the model's own call then fails as well, the next one is
    the first: ``wait`` says so in the report.
    """

    def __init__(
        self, model: nn.Module, look: Callable[[tuple[Any, ...], dict[str, Any]], Any], wait: Callable[[], None]
    ) -> None:
        self.model, self.look, self.wait = model, look, wait
        self.lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        called = _called(self.model)
        if called is not self.model or torch.compiler.is_compiling() or torch.jit.is_tracing() or transform():
            return called._call_impl(*args, **kwargs)
        with self.lock:
            is_first = self.model._compiled_call_impl is self  # which no other thread was while this one waited
            if is_first:
                self.model._compiled_call_impl = None
                found = self.look(args, kwargs)
        try:
            return self.model._wrapped_call_impl(*args, **kwargs)
        except Exception:
            if is_first and found is None:
                self.model._compiled_call_impl = self
                self.wait()
            raise


def _called(module: nn.Module) -> nn.Module:
    """Whose call runs the caller: a copy of the attributes of ``module``, as DataParallel makes, has it as well."""
    called: nn.Module = sys._getframe(2).f_locals.get("self", module)
    return called


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
    """Compile every one of ``modules``; those of one class share their graphs. What comes of it fills the report."""
    report = GraphReport()
    for module in modules:
        if module._compiled_call_impl is None:  # else its owner has compiled it
            module._compiled_call_impl = Compiled(module, _backend(backend), report)
    return report


@functools.cache
def _backend(backend: Backend) -> Any:
    """One object for all modules: Dynamo compiles a forward anew for another backend."""
    from .backend import Options, Reporting

    class InPlace(Reporting):
        def __call__(self, module: GraphModule, example_inputs: Any) -> Callable[..., Any]:
            if any(map(_is_writing_checkpoint, module.graph.nodes)):
                raise WritingCheckpoint
            return super().__call__(module, example_inputs)

    return InPlace(Options(inner="eager", backend=backend), lambda: _local.report)


class WritingCheckpoint(Exception):
    """A graph with a checkpoint whose body writes to tensors from outside, such as running statistics.

    Where it runs as it is, eager's checkpoint runs the body's graph, and what it wrote stands in the way of a gradient.
    """


def _is_writing_checkpoint(node: Node) -> bool:
    from .order import mutated

    if node.target is not torch.ops.higher_order.tag_activation_checkpoint:
        return False
    body = getattr(node.graph.owning_module, str(node.args[0].target))  # type: ignore[union-attr]
    return any(written.op == "placeholder" for inner in body.graph.nodes for written in mutated(inner))


def restore(module: nn.Module) -> None:
    """Take what this file put in the place of a module's call away."""
    if isinstance(module._compiled_call_impl, Compiled | FirstCall):
        module._compiled_call_impl = None
