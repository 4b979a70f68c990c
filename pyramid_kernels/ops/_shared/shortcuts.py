"""The short way in: what shapes and settings decide is worked out once, and calls of the same shapes repeat it.

The second call of some shapes goes the long way and is recorded (``recorder.py``). Its plan (``plans.py``) serves every
later call of these shapes, strides, dtypes and settings, from which checks, strides, grids and the choice of kernels
follow. Where a gradient is wanted, the plan is that of the op behind the call, and the call shows how its arguments
become those of the op (``Shortcut``). Calls of which something must see the operators (``watched``) go the long way.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Sequence
from itertools import chain
from operator import itemgetter
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves

from ... import _native
from ...backends import OPS, setting
from ...verification import ledger
from . import constants
from .plans import MISSING, Declined, Plan
from .recorder import recordable, recorded

Function = TypeVar("Function", bound=Callable[..., Any])

#: Types whose instances are what they seem; a subclass may stand for something else.
PLAIN = frozenset((Tensor, nn.Parameter))
#: Shapes that one function, and one backward, remembers.
MOST = 1024
#: A shape that came once.
SEEN = object()

_ON = setting("PYRAMID_KERNELS_PLANS", ("1", "0")) == "1"
_dispatch_modes, _function_modes = torch._C._len_torch_dispatch_stack, torch._C._len_torch_function_stack
_transforms, _tracing = torch._C._are_functorch_transforms_active, torch._C._get_tracing_state
_profiled, _autocast_on = torch._C._autograd._profiler_enabled, torch._C._is_any_autocast_enabled
_precision, _is_grad_enabled = torch._C._get_fp32_precision_getter, torch.is_grad_enabled


def watched() -> Any:
    """Whether anything must see an operator or changes what one means: modes, transforms, tracing, profiling."""
    if torch.compiler.is_compiling() or not _ON:
        return True
    return (
        _dispatch_modes()
        or _function_modes()
        or _transforms()
        or _tracing()
        or _profiled()
        or forward_ad._current_level >= 0
    )


def _state() -> tuple[Any, ...]:
    """What else decides: the precision of fp32 products, autocast, whether a frozen module's constants are at hand."""
    precision, frozen = _precision("cuda", "conv"), constants.active() is not None
    if not _autocast_on():
        return precision, frozen
    devices = [(torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda")]
    return precision, frozen, *devices


class _Local(threading.local):
    capture: Capture | None = None
    shortcut: tuple[Shortcut, Sequence[int]]


local = _Local()


class Capture:
    """What the long way of one call does: each ``OpFunction.run``, and the casts of its arguments."""

    def __init__(self) -> None:
        self.runs: list[tuple[Shortcut, tuple[Any, ...], tuple[Tensor, ...]]] = []
        self.casts: dict[int, tuple[Tensor, Tensor]] = {}  # by the id of the result: it and its source

    def run(self, function: Any, inner: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """What ``function.apply(*inner)`` returns."""
        shortcut = Shortcut(function, inner)
        outputs = shortcut.start(inner, [])
        self.runs.append((shortcut, inner, outputs))
        return outputs


def cast(t: Tensor, dtype: torch.dtype) -> Tensor:
    """``t.to(dtype)``, which a plan may repeat."""
    result = t.to(dtype)
    if result is not t and not torch.compiler.is_compiling() and local.capture is not None:
        local.capture.casts[id(result)] = result, t
    return result


class Shortcut:
    """The way from the plain tensors of a public call to its differentiable op, and from the op's results to the
    call's."""

    def __init__(self, function: Any, inner: Sequence[Any]) -> None:
        self.function = function
        self.inner = [None if isinstance(a, Tensor) else a for a in inner]
        self.at = [at for at, a in enumerate(inner) if isinstance(a, Tensor)]
        self.tensors = _picked(self.at)
        # Composed forms read values or call the library: nothing to plan, and what they free must be free.
        composed = any(isinstance(a, str) and a == "composed" for a in self.inner)
        self.planned = composed or not recordable([*self.tensors(inner)])
        self.plan: Plan | None = None
        self.kept: _Context | None = None
        self.backwards: dict[Any, Plan | None] = {}

    def joins(self, capture: Capture, tensors: list[Tensor], result: Any) -> None:
        """Find the op's arguments among the call's ``tensors``, and ``result`` among what the op returned."""
        ((_, inner, outputs),) = capture.runs
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(self.inner)):
            raise Declined  # a later call must not get these
        places = {id(t): i for i, t in enumerate(tensors)}
        sources = [capture.casts.get(id(inner[at]), (None, inner[at]))[1] for at in self.at]
        order = [_found(places, source) for source in sources]
        if len(set(order)) < len(tensors):
            raise Declined  # a tensor that the op does not get was read: its value is among the constants
        self.casts: list[tuple[int, torch.dtype]] = []  # of the call's tensors, put behind these
        for i, (at, source) in enumerate(zip(self.at, sources, strict=True)):
            if source is not inner[at]:
                self.casts.append((order[i], inner[at].dtype))
                order[i] = len(tensors) + len(self.casts) - 1
        constants = len(tensors) + len(self.casts)
        given = dict(zip(self.at, order, strict=True))
        self.arranged = _picked([given.get(at, constants + at) for at in range(len(inner))])
        self.placed = _picked(order)
        returned = {id(t): i for i, t in enumerate(outputs)}
        self.one = isinstance(result, Tensor)
        self.returned = [_found(returned, t) for t in ([result] if self.one else result)]

    def run(self, tensors: list[Tensor], addresses: list[int]) -> Any:
        """The public call on tensors like those that the shortcut was found with."""
        for i, dtype in self.casts:
            tensors.append(tensors[i].to(dtype))
            addresses.append(tensors[-1].data_ptr())
        outputs = self.start(self.arranged((*tensors, *self.inner)), self.placed(addresses))
        return outputs[self.returned[0]] if self.one else tuple(outputs[i] for i in self.returned)

    def start(self, inner: Sequence[Any], addresses: Sequence[int]) -> tuple[Tensor, ...]:
        """The op on its own arguments, whose tensors lie at ``addresses``."""
        local.shortcut = self, addresses
        outputs: tuple[Tensor, ...] = self.function.short_apply(*inner)
        return outputs

    def forward(self, inner: Sequence[Any], addresses: Sequence[int]) -> tuple[Tensor, ...]:
        """The op's forward on its own arguments."""
        tensors = self.tensors(inner)
        if self.plan is not None:
            return self.plan.run(tensors, addresses)
        if self.planned:
            return self.function.forward(*inner)
        outputs, plan = recorded(lambda: self.function.forward(*inner), [*tensors])
        if plan is not MISSING:
            self.plan, self.planned = plan, True
        return outputs

    def keep(self, ctx: Any, inner: Sequence[Any], outputs: tuple[Tensor, ...]) -> None:
        """What the op's ``setup_context`` does to ``ctx``: seen once, then done."""
        if self.kept is None:
            self.kept = _Context(ctx, self.function.setup_context, inner, outputs)
        # What FunctionCtx's methods set; their calls cost as much as all of this.
        ctx.materialize_grads = False
        if not self.kept.known:
            self.function.setup_context(ctx, inner, outputs)
            return
        values = (*inner, *outputs, None)
        ctx.__dict__.update(self.kept.constants)
        ctx.to_save = self.kept.saved(values)
        ctx.non_differentiable = self.kept.marked(values)

    def backward(self, ctx: Any, dys: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        """The op's backward; what was saved may have been laid out anew by hooks."""
        saved, wanted = ctx.saved_tensors, ctx.needs_input_grad
        # Saved tensors are unpacked once: checkpoints allow no more.
        seen = SimpleNamespace(**ctx.__dict__, saved_tensors=saved, needs_input_grad=wanted)
        found = None if self.plan is None else _keyer()(False, (wanted, dys, saved), {})
        if found is None:
            return self.function.backward(seen, *dys)
        parts, tensors, addresses = found
        key = parts, _state()
        plan = self.backwards.get(key, MISSING)
        if plan is MISSING and recordable(tensors):
            grads, plan = recorded(lambda: self.function.backward(seen, *dys), tensors)
            if plan is not MISSING:
                _make_room(self.backwards)
                self.backwards[key] = plan
            return grads
        if not isinstance(plan, Plan):
            return self.function.backward(seen, *dys)
        try:
            return plan.run(tensors, addresses)
        except Declined:
            return self.function.backward(seen, *dys)


class _Context:
    """What is set on ``ctx``: constants, and which values of ``inner`` and ``outputs`` are saved and marked."""

    def __init__(
        self, ctx: Any, setup_context: Callable[..., None], inner: Sequence[Any], outputs: tuple[Tensor, ...]
    ) -> None:
        saved: list[Any] = []
        marked: list[Any] = []
        seen = SimpleNamespace(
            save_for_backward=lambda *tensors: saved.extend(tensors),
            mark_non_differentiable=lambda *tensors: marked.extend(tensors),
            set_materialize_grads=lambda value: None,
            needs_input_grad=ctx.needs_input_grad,
        )
        before = set(vars(seen))
        setup_context(seen, inner, outputs)
        places = {id(t): i for i, t in enumerate((*inner, *outputs)) if t is not None}
        self.constants = {k: v for k, v in vars(seen).items() if k not in before}
        self.known = all(id(t) in places for t in (*saved, *marked) if t is not None)
        self.known &= not any(isinstance(leaf, Tensor) for leaf in tree_leaves(self.constants))
        self.saved = _picked([-1 if t is None else places.get(id(t), -1) for t in saved])
        self.marked = _picked([places[id(t)] for t in marked if id(t) in places])


def _picked(at: list[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """The elements at these places, as a tuple."""
    return itemgetter(*at) if len(at) > 1 else lambda values: tuple(values[i] for i in at)


def _found(places: dict[int, int], t: Any) -> int:
    """Where the very tensor ``t`` is; a view or copy of another is no way that can be gone again."""
    if id(t) not in places:
        raise Declined
    return places[id(t)]


def _make_room(plans: dict[Any, Any]) -> None:
    """Drop the oldest of a full table; another thread may be at it as well."""
    if len(plans) >= MOST:
        for key in list(plans)[: len(plans) - MOST + 1]:
            plans.pop(key, None)


def plain(tensors: list[Tensor]) -> bool:
    """Whether all are what they seem: no subclass, no pending negation, no zeros without memory."""
    odd = any(map(Tensor.is_neg, tensors)) or any(map(Tensor._is_zerotensor, tensors))
    return PLAIN.issuperset(map(type, tensors)) and not odd


#: Who hears of every public op that is called: its name and arguments.
calls: list[Callable[[str, tuple[Any, ...], dict[str, Any]], None]] = []


def short(fn: Function) -> Function:
    """A public function whose calls of known shapes take the short way."""
    shortcuts: dict[Any, Any] = {}  # SEEN once, a Shortcut, or None where there is none
    ledger.forget.append(shortcuts.clear)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if calls and not torch.compiler.is_dynamo_compiling() and fn.__name__ in OPS:  # a composite's ops count
            for hear in calls:
                hear(fn.__name__, args, kwargs)
        found = None if watched() or not _kernels() else _keyer()(_is_grad_enabled(), args, kwargs)
        if found is None:
            return fn(*args, **kwargs)
        parts, tensors, addresses = found
        key = parts, _state()
        try:
            known = shortcuts.get(key, MISSING)
        except Exception:  # an argument that cannot be looked up: the long way says what is wrong with it
            return fn(*args, **kwargs)
        if isinstance(known, Shortcut | Plan):
            try:
                return known.run(tensors, addresses)
            except Declined:
                return fn(*args, **kwargs)
        if known is MISSING:  # a shape that does not come again is not worth a plan
            _make_room(shortcuts)
            shortcuts[key] = SEEN
        if known is SEEN:
            return _learned(fn, args, kwargs, tensors, shortcuts, key)
        return fn(*args, **kwargs)

    call.shortcuts = shortcuts  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


@functools.cache
def _kernels() -> bool:
    """Whether kernels may run here at all: without them there is nothing to plan."""
    built = torch.version.cuda or torch.version.hip
    return bool(built) or _native.simulated() or os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _keyer() -> Callable[[bool, tuple[Any, ...], dict[str, Any]], Any]:
    """The core's ``key``, wherever there is a core; else Python's."""
    found = next((m.key for m in map(_native.module, ("cuda", "cpu")) if hasattr(m, "key")), None)
    return key_of if found is None else functools.partial(found, Tensor, nn.Parameter)


ledger.forget += [_kernels.cache_clear, _keyer.cache_clear]


def key_of(
    grad: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], list[Tensor], list[int]] | None:
    """What to look up, the tensors in order, and their addresses, of a call's arguments; None where it must go the long
    way. ``grad``: whether it decides anything that a tensor requires a gradient."""
    tensors: list[Tensor] = []
    parts: list[Any] = [grad]
    try:
        _add_key((args, *chain.from_iterable(kwargs.items())), parts, tensors)
        for t in tensors:
            parts += (t.shape, t.stride(), t.dtype, t.device, grad and t.requires_grad)
    except (TypeError, RuntimeError):  # a subclass; a tensor without strides
        return None
    return (tuple(parts), tensors, [t.data_ptr() for t in tensors]) if plain(tensors) else None


def _add_key(args: Sequence[Any], parts: list[Any], tensors: list[Tensor]) -> None:
    for a in args:
        kind = type(a)
        parts.append(kind)
        if kind in PLAIN:
            tensors.append(a)
        elif kind is list or isinstance(a, tuple):
            parts.append(len(a))
            _add_key(a, parts, tensors)
        elif isinstance(a, Tensor):
            raise TypeError("a subclass of Tensor")
        else:
            parts.append(a)


def _learned(
    fn: Callable[..., Any], args: Any, kwargs: Any, tensors: list[Tensor], shortcuts: dict[Any, Any], key: Any
) -> Any:
    """The long way, and what it shows."""
    if len({*map(id, tensors)}) < len(tensors):
        return fn(*args, **kwargs)  # a key does not tell one tensor given twice from two
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        if not recordable(tensors):
            shortcuts[key] = None
            return fn(*args, **kwargs)
        result, plan = recorded(lambda: fn(*args, **kwargs), tensors)
        if plan is not MISSING:
            shortcuts[key] = plan
        return result
    before, local.capture = local.capture, Capture()
    try:
        result, capture = fn(*args, **kwargs), local.capture
    finally:
        local.capture = before
    shortcuts[key] = None  # not before: an exception, such as a checkpoint's that has all it needs, says nothing
    if len(capture.runs) == 1:
        shortcut = capture.runs[0][0]
        with contextlib.suppress(Declined):
            shortcut.joins(capture, tensors, result)
            shortcuts[key] = shortcut
    return result
