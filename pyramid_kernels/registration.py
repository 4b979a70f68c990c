"""Operators and their autograd functions: one call registers schema, implementation and fake."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from .backends import Function, not_by_kernels
from .ops._shared import shortcuts

_LIB = torch.library.Library("pyramid_kernels", "DEF")


#: Sizes that the tracer may keep symbolic; a plain list of ints becomes part of the graph.
Sizes = Annotated[list[int], "SymInt[]"]

_TYPES: dict[Any, str] = {
    Tensor: "Tensor", Tensor | None: "Tensor?", list[Tensor]: "Tensor[]", list[Tensor | None]: "Tensor?[]",
    bool: "bool", int: "int", float: "float", str: "str", torch.dtype: "ScalarType",
    list[bool]: "bool[]", list[int]: "int[]", list[float]: "float[]", Sizes: "SymInt[]",
}  # fmt: skip


def register_op(
    name: str, fake: Callable[..., Any] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Define ``pyramid_kernels::<name>`` for CPU and CUDA tensors: the decorated function is then called through it.

    Its parameters are the operator's, the fields of a NamedTuple of settings standing in that one's place. It allocates
    the results, yields them and launches what fills them; of fake tensors, it is left at its yield. Where launches come
    before the allocation, it returns the results, and ``fake`` allocates by the same rule.
    """

    def define(function: Callable[..., Any]) -> Callable[..., Any]:
        schema, place, kind = _schema(function)
        end = place + len(kind._fields)

        def grouped(fn: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *flat: fn(*flat[:place], kind(*flat[place:end]), *flat[end:])

        _LIB.define(f"{name}{schema}")
        for key in ("CPU", "CUDA"):
            _LIB.impl(name, grouped(function if fake else _to_the_end(function)), key)
        for key in ("FuncTorchBatched", "Batched"):  # of torch.vmap, and of autograd's batched gradients
            _LIB.impl(name, _refuse_vmap(re.sub("_(fwd|bwd).*", "", name)), key)
        torch.library.register_fake(f"pyramid_kernels::{name}", grouped(fake or _to_its_yield(function)), lib=_LIB)
        overload = getattr(torch.ops.pyramid_kernels, name).default
        return lambda *args: overload(*args[:place], *args[place], *args[place + 1 :])

    return define


def _to_the_end(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        steps = function(*args)
        results = next(steps)
        next(steps, None)
        return results

    return run


def _to_its_yield(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: next(function(*args))


def _schema(function: Callable[..., Any]) -> tuple[str, int, Any]:
    """The schema that the annotations of ``function`` say, and which parameter the settings are, of which class."""
    hints = get_type_hints(function, include_extras=True)
    answer = hints.pop("return")
    answer = get_args(answer)[0] if get_origin(answer) is Iterator else answer
    place, kind = next((i, kind) for i, kind in enumerate(hints.values()) if hasattr(kind, "_fields"))
    fields = get_type_hints(kind, include_extras=True)
    flat = [*hints.items()][:place] + [*fields.items()] + [*hints.items()][place + 1 :]
    results = ", ".join(_TYPES[t] for t in get_args(answer)) if get_origin(answer) is tuple else ""
    parameters = ", ".join(f"{_TYPES[t]} {name}" for name, t in flat)
    return f"({parameters}) -> {f'({results})' if results else _TYPES[answer]}", place, kind


class OpFunction(torch.autograd.Function):
    """Base of every op's autograd function. A subclass sets ``op_name``, ``forward``, ``setup_context``, ``backward``.

    ``backward`` gets None for an output without gradient and runs unrecorded; differentiating its results again, or
    mapping over either pass, raises NotImplementedError naming the op. (So does ``select`` in forward-mode AD: Dynamo
    does not trace a function with a ``jvp``.)
    """

    op_name: str
    short_apply: Callable[..., Any]

    @classmethod
    def run(cls, *args: Any) -> Any:
        """``apply``, but where a traced call needs no gradient.

        torch.compile then traces ``forward`` itself, and hands it a context that it does not take where its parameters
        are starred.
        """
        if torch.compiler.is_compiling():
            wanted = torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args)
            return cls.apply(*args) if wanted else cls.forward(*args)
        capture = shortcuts.local.capture
        return cls.apply(*args) if capture is None else capture.run(cls, args)

    def __init_subclass__(cls) -> None:
        cls.setup_context = staticmethod(_without_zeros(cls.setup_context))  # type: ignore[method-assign]
        cls.backward = staticmethod(_first_order_only(cls.op_name, cls.backward))  # type: ignore[method-assign]
        cls.vmap = staticmethod(_refuse_vmap(cls.op_name))  # type: ignore[method-assign]
        cls.short_apply = _short(cls)


def _short(function: type[OpFunction]) -> Callable[..., Any]:
    """``apply`` of ``function`` as the short way runs it: planned, and with a ``forward`` that takes the context, which
    costs a third of one that does not."""

    def forward(ctx: Any, *inner: Any) -> Any:
        shortcut, addresses = shortcuts.local.shortcut
        del shortcuts.local.shortcut
        ctx.shortcut = shortcut
        outputs = shortcut.forward(inner, addresses)
        shortcut.keep(ctx, inner, outputs)
        return outputs

    def backward(ctx: Any, *dys: Tensor | None) -> Any:
        if torch.is_grad_enabled() or shortcuts.watched():
            return function.backward(ctx, *dys)
        return ctx.shortcut.backward(ctx, dys)

    passes = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    short: Any = type(function.__name__, (torch.autograd.Function,), passes)  # its name is the nodes'
    # What Function.apply does before, for transforms that the short way is not taken in, costs as much as the rest.
    return super(torch.autograd.Function, short).apply


def public(problems: Callable[..., Any]) -> Callable[[Function], Function]:
    """What every public function of an op is: one with a short way in, and with what ``explain`` asks, its
    (op, problem, sizes) list for the same arguments."""

    def attach(fn: Function) -> Function:
        found = shortcuts.short(fn)
        found.problems = problems  # type: ignore[attr-defined]
        return found

    return attach


def _without_zeros(setup_context: Callable[..., None]) -> Callable[..., None]:
    """Autograd hands ``backward`` None, not a tensor of zeros, for an output that has no gradient."""

    @functools.wraps(setup_context)
    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        setup_context(ctx, inputs, output)

    return setup


def _refuse_vmap(name: str) -> Callable[..., Any]:
    def vmap(*_: Any, **__: Any) -> Any:
        raise not_by_kernels(name, "vmap")

    return vmap


def _first_order_only(name: str, backward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(backward)
    def first_order(ctx: Any, *dys: Tensor | None) -> Any:
        if all(dy is None for dy in dys):
            return (None,) * len(ctx.needs_input_grad)
        # A traced backward is never differentiated again.
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return backward(ctx, *dys)
        with torch.no_grad():
            grads = backward(ctx, *dys)
        source = next((t for t in (*dys, *ctx.saved_tensors) if t is not None and t.requires_grad), None)
        if source is None:
            return grads
        return tuple(None if g is None else _FirstOrder.apply(g, source, name) for g in grads)

    return first_order


class _FirstOrder(torch.autograd.Function):
    """Identity on a gradient that depends on ``source`` and refuses to be differentiated."""

    @staticmethod
    def forward(gradient: Tensor, source: Tensor, name: str) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name = inputs[2]

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise NotImplementedError(f"{ctx.name}: double backward is not implemented; use backend='reference'")
