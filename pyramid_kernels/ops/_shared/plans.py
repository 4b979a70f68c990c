"""The short way in: what shapes and settings decide is worked out once, and calls of the same shapes repeat it.

The second call of some shapes goes the long way, and shows how its arguments become those of the op (``Shortcut``). Its
kernels run under a ``Recorder``, which writes down what they allocate, view, launch and ask of ATen, and from which
tensor each address came. The ``Plan`` of that does the same again and asks nothing: checks, strides, grids and the
choice of kernels follow from what is in the key. Values never do: where a call reads one there is no plan. Calls of
which something must see the operators (``watched``) go the long way.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import threading
from collections.abc import Callable, Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from ... import _native, ledger
from ...backends import setting
from . import constants, launch, native

Function = TypeVar("Function", bound=Callable[..., Any])

#: Types whose instances are what they seem; a subclass may stand for something else.
PLAIN = frozenset((Tensor, nn.Parameter))
#: Plans of one function, and of one function's backward, before the oldest goes.
MOST = 1024
#: Bytes at whose multiples the scratch buffers of one plan begin, which share an allocation.
ALIGNED = 256

_ALLOCATIONS = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided"}
_READS_VALUES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_ON = setting("PYRAMID_KERNELS_PLANS", ("1", "0")) == "1"


MISSING, SEEN = object(), object()


class Declined(Exception):
    """There is no plan for this call: it goes the long way."""


class _Local(threading.local):
    capture: Capture | None = None
    shortcut: Shortcut | None = None


local = _Local()


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


# --- What a call did, and doing it again


class Ref(NamedTuple):
    """Where a tensor of a recorded call lies: ``offset`` bytes behind the start of the tensor ``slot``."""

    slot: int
    offset: int
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    whole: bool  # the tensor of that slot itself


class Writer:
    """The Python function that a plan is: its lines, and the constants that they name."""

    def __init__(self, inputs: list[Tensor]) -> None:
        self.inputs, self.device = len(inputs), inputs[0].device
        self.slots = self.inputs
        self.constants: dict[str, Any] = {"Declined": Declined, "empty_strided": torch.empty_strided}
        full = [f"a{i}" for i, t in enumerate(inputs) if t.data_ptr()]
        self.lines = ["".join(f"t{i}, " for i in range(self.inputs)) + "= inputs"]
        self.lines += [f"a{i} = t{i}.data_ptr()" for i in range(self.inputs)]
        if full:  # the long way says what is wrong with elements that have no memory
            self.lines.append(f"if not ({' and '.join(full)}): raise Declined")
        stream = f"{self.name(native.stream)}({self.name(self.device)})" if self.device.type == "cuda" else "0"
        self.lines.append(f"stream = {stream}")

    def name(self, constant: Any) -> str:
        """An expression for a constant."""
        if constant is None or type(constant) in (bool, int):
            return repr(constant)
        self.constants[f"c{len(self.constants)}"] = constant
        return f"c{len(self.constants) - 1}"

    def made(self) -> int:
        """The next slot."""
        self.slots += 1
        return self.slots - 1

    def tensors(self, tree: Any) -> str:
        """An expression for ``tree`` with the tensors of its refs."""
        return self._tree(tree, self._tensor)

    def addresses(self, tree: Any) -> str:
        """An expression for ``tree`` with the addresses of its refs."""
        return self._tree(tree, lambda ref: f"a{ref.slot} + {ref.offset}" if ref.offset else f"a{ref.slot}")

    def freed(self) -> list[str]:
        """The lines, and after the last one that names a tensor the end of its life."""
        last = {int(i): at for at, line in enumerate(self.lines) for i in re.findall(r"\b[ta](\d+)\b", line)}
        lines = []
        for at, line in enumerate(self.lines):
            ended = [f"t{i}" for i, end in last.items() if end == at and i >= self.inputs]
            lines += [line, *([f"del {', '.join(ended)}"] if ended and at + 1 < len(self.lines) else [])]
        return lines

    def _tensor(self, ref: Ref) -> str:
        if ref.whole:
            return f"t{ref.slot}"
        place = *map(self.name, (ref.dtype, tuple(ref.shape), ref.stride)), ref.offset
        return f"{self.name(_placed)}(t{ref.slot}, {', '.join(map(str, place))})"

    def _tree(self, tree: Any, leaf: Callable[[Ref], str]) -> str:
        if isinstance(tree, Ref):
            return leaf(tree)
        if type(tree) in (list, tuple):
            items = "".join(f"{self._tree(item, leaf)}, " for item in tree)
            return f"[{items}]" if isinstance(tree, list) else f"({items})"
        if type(tree) is dict:
            return "{" + "".join(f"{key!r}: {self._tree(item, leaf)}, " for key, item in tree.items()) + "}"
        return self.name(tree)


def _placed(t: Tensor, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...], offset: int) -> Tensor:
    """The tensor that lies ``offset`` bytes behind the start of ``t``."""
    if t.dtype != dtype:
        t, offset = t[offset:].view(dtype) if t.dtype == torch.uint8 else t.view(dtype), 0
    return t.as_strided(shape, stride, t.storage_offset() + offset // t.element_size())


class New(NamedTuple):
    """An allocation."""

    shape: Sequence[int]
    stride: Sequence[int]
    dtype: torch.dtype
    device: torch.device

    def write(self, to: Writer) -> None:
        slot = to.made()
        how = *map(to.name, (tuple(self.shape), tuple(self.stride))), f"dtype={to.name(self.dtype)}"
        to.lines.append(f"t{slot} = empty_strided({', '.join(how)}, device={to.name(self.device)})")
        to.lines.append(f"a{slot} = t{slot}.data_ptr()")


class Aten(NamedTuple):
    """An ATen call; ``new`` are the places of those results that are no argument."""

    call: Callable[..., Any]
    args: Any
    kwargs: dict[str, Any]
    new: list[int]
    single: bool  # whether what it returns is one tensor, not several

    def write(self, to: Writer) -> None:
        call = f"{to.name(self.call)}(*{to.tensors(self.args)}, **{to.tensors(self.kwargs)})"
        if not self.new:
            to.lines.append(call)
        elif self.single:
            slot = to.made()
            to.lines.append(f"t{slot} = {call}; a{slot} = t{slot}.data_ptr()")
        else:
            to.lines.append(f"results = {to.name(tree_leaves)}({call})")
            for i in self.new:
                slot = to.made()
                to.lines.append(f"t{slot} = results[{i}]; a{slot} = t{slot}.data_ptr()")


class Native(NamedTuple):
    """A launch of the compiled core: its ``Call`` and the tensors whose addresses it takes."""

    call: Any
    refs: list[Ref | None]

    def write(self, to: Writer) -> None:
        run = to.name(functools.partial(native.run, self.call, to.device))
        to.lines.append(f"{run}(stream, {to.addresses([0 if ref is None else ref for ref in self.refs])})")


class Triton(NamedTuple):
    """A Triton launch; where it was compiled, ``every`` parameter of the kernel in order, and the compiled kernel.

    That one is right where integers are what they were and addresses multiples of 16, as those of allocations are.
    """

    kernel: Any
    grid: tuple[int, ...]
    dtype: str
    args: Any
    meta: dict[str, Any]
    compiled: Any
    every: list[Any]

    def write(self, to: Writer) -> None:
        launched = to.name(functools.partial(launch.triton, self.kernel, self.grid, to.device, self.dtype))
        ask = f"{launched}({to.tensors(tuple(self.args))}, {to.tensors(self.meta)})"
        if not self.compiled:
            to.lines.append(ask)
            return
        x, y, z = (*self.grid, 1, 1)[:3]
        direct = to.name(functools.partial(launch.compiled, self.kernel, self.dtype, self.compiled, (x, y, z)))
        given = " | ".join(f"a{i}" for i in range(to.inputs))
        to.lines.append(f"if ({given}) & 15 or not {direct}(stream, {to.addresses(self.every)}): {ask}")


class Plan:
    """The steps of a call on plain tensors like ``inputs``, as one Python function, and where its results lie."""

    def __init__(self, inputs: list[Tensor], steps: list[Any], results: Any) -> None:
        writer = Writer(inputs)
        for step in steps:
            step.write(writer)
        writer.lines.append(f"return {writer.tensors(results)}")
        self.source = "def run(inputs):\n" + "".join(f"    {line}\n" for line in writer.freed())
        self.steps = len(steps)
        self.launches = sum(isinstance(step, Native | Triton) for step in steps)
        self.library = sum(isinstance(step, Aten) for step in steps)
        exec(compile(self.source, "<plan>", "exec"), writer.constants)
        run = writer.constants.pop("run")
        self.run = functools.partial(launch.on_device, writer.device, run) if writer.device.type == "cuda" else run


class Recorder(TorchDispatchMode):
    """Writes down what happens to ``inputs`` inside its block; ``steps`` is None once something cannot be repeated."""

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()
        self.steps: list[Any] | None = []
        self.inputs, self.slots = inputs, 0
        self.refs = WeakIdKeyDictionary()  # what a call frees is not kept alive by it
        for t in inputs:
            self._base(t)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or defining it would import Dynamo, and Triton with it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.steps is None:
            return func(*args, **kwargs)
        if func.namespace == "pyramid_kernels":
            key = getattr(torch._C.DispatchKey, self.inputs[0].device.type.upper())
            with self:  # a mode is off inside its own handler; the implementation is what is recorded
                return func.redispatch(torch._C.DispatchKeySet(key), *args, **kwargs)
        result = func(*args, **kwargs)
        if func.overloadpacket.__name__ in _ALLOCATIONS:
            self._add(New(result.shape, result.stride(), result.dtype, result.device))
            self._base(result)
        elif func.is_view and all(_shares(args[0], t) for t in tree_leaves(result)):
            self._views(args[0], tree_leaves(result))
        elif _READS_VALUES.intersection(func.tags):
            self.steps = None
        else:
            self._aten(func, args, kwargs, result)
        return result

    def native(self, call: Any, tensors: Sequence[Tensor | None]) -> None:
        self._add(Native(call, [self._ref(t) for t in tensors]))

    def triton(
        self, kernel: Any, grid: tuple[int, ...], dtype: str, args: Any, meta: dict[str, Any], compiled: Any
    ) -> None:
        named = {**dict(zip(kernel.arg_names, args, strict=False)), **meta}
        whole = hasattr(compiled, "packed_metadata") and all(name in named for name in kernel.arg_names)
        aligned = all(t.data_ptr() % 16 == 0 for t in tree_leaves(args) if isinstance(t, Tensor))
        every = [named[name] for name in kernel.arg_names] if whole and aligned else []
        self._add(Triton(kernel, grid, dtype, self._refs(args), meta, every and compiled, self._refs(every)))

    def derived(self, fn: Callable[..., Any], args: Any, result: Any) -> None:
        """A frozen module's constant: asked for again in each call, because values decide whether it holds."""
        if isinstance(result, Tensor):
            self._add(Aten(functools.partial(constants.derived, fn), self._refs(args), {}, [0], single=True))
            self._base(result)
        else:
            self.steps = None

    def plan(self, results: Any) -> Plan | None:
        """What repeats the call that returned ``results``; None where nothing can."""
        found = self._refs(results)
        if self.steps is None:
            return None
        return Plan(self.inputs, *_with_one_scratch(self.steps, found, len(self.inputs)))

    def _aten(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        results = tree_leaves(result)
        given = {id(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        new = [i for i, t in enumerate(results) if isinstance(t, Tensor) and id(t) not in given]
        if not all(t is None or isinstance(t, Tensor) for t in results):
            self.steps = None
        self._add(Aten(func, self._refs(args), self._refs(kwargs), new, isinstance(result, Tensor)))
        for i in new:
            self._base(results[i])

    def _views(self, base: Tensor, views: list[Tensor]) -> None:
        known = self._ref(base)
        if known is None:
            return
        for t in views:
            if t.dtype != base.dtype:
                self.steps = None
            step = (t.storage_offset() - base.storage_offset()) * t.element_size()
            self.refs[t] = Ref(known.slot, known.offset + step, t.dtype, t.shape, t.stride(), whole=False)  # type: ignore[arg-type]

    def _base(self, t: Tensor) -> None:
        self.refs[t] = Ref(self.slots, 0, t.dtype, t.shape, t.stride(), whole=True)
        self.slots += 1

    def _ref(self, t: Tensor | None) -> Ref | None:
        found: Ref | None = None if t is None else self.refs.get(t)
        if found is None and t is not None:
            self.steps = None
        return found

    def _refs(self, tree: Any) -> Any:
        return tree_map_only(Tensor, self._ref, tree)

    def _add(self, step: Any) -> None:
        if self.steps is not None:
            self.steps.append(step)


def _shares(base: Tensor, t: Tensor) -> bool:
    """Whether a result of what may be a view is one: ``contiguous`` and ``reshape`` may copy."""
    return base.untyped_storage()._cdata == t.untyped_storage()._cdata


def _with_one_scratch(steps: list[Any], results: Any, inputs: int) -> tuple[list[Any], Any]:
    """The same steps with one allocation for all buffers that only launches see, and none for views of results."""
    kept: dict[int, set[Ref]] = {}
    for ref in _refs_in((results, [step[1:3] for step in steps if isinstance(step, Aten)])):
        kept.setdefault(ref.slot, set()).add(ref)
    places: dict[int, tuple[int, int]] = {i: (i, 0) for i in range(inputs)}
    fewer: list[Any] = []
    slot = slots = inputs
    block, size = None, 0
    for step in steps:
        made = 1 if isinstance(step, New) else len(step.new) if isinstance(step, Aten) else 0
        if isinstance(step, New) and slot not in kept:
            if block is None:
                block, slots = (len(fewer), slots, step.device), slots + 1
                fewer.append(None)
            places[slot] = block[1], size
            size += -(-_bytes(step) // ALIGNED) * ALIGNED
        else:
            if isinstance(step, New) and len(kept[slot]) == 1 and _covers(view := next(iter(kept[slot])), step):
                step = step._replace(shape=view.shape, stride=view.stride)
                kept[slot] = {view._replace(whole=True)}
            places.update({slot + i: (slots + i, 0) for i in range(made)})
            slots += made
            fewer.append(step)
        slot += made

    def moved(ref: Ref) -> Ref:
        to, offset = places[ref.slot]
        whole = ref.slot < inputs and ref.whole or ref._replace(whole=True) in kept.get(ref.slot, ())
        return ref._replace(slot=to, offset=ref.offset + offset, whole=whole)

    if block is not None:
        fewer[block[0]] = New((size,), (1,), torch.uint8, block[2])
    return tree_map_only(Ref, moved, (fewer, results), is_leaf=_is_ref)


def _covers(view: Ref, new: New) -> bool:
    """Whether ``view`` is all of an allocation, in other dimensions."""
    size = math.prod(new.shape)
    dense = _bytes(new) == size * new.dtype.itemsize
    return dense and view.offset == 0 and view.dtype == new.dtype and math.prod(view.shape) == size


def _is_ref(value: Any) -> bool:
    return isinstance(value, Ref)


def _refs_in(tree: Any) -> list[Ref]:
    return [leaf for leaf in tree_leaves(tree, is_leaf=_is_ref) if isinstance(leaf, Ref)]


def _bytes(new: New) -> int:
    last = sum((n - 1) * step for n, step in zip(new.shape, new.stride, strict=True))
    return 0 if 0 in new.shape else (last + 1) * new.dtype.itemsize


# --- From a public function's arguments to those of its op


class Capture:
    """What the long way of one call does: each ``OpFunction.run``, and the casts of its arguments."""

    def __init__(self) -> None:
        self.runs: list[tuple[Shortcut, tuple[Any, ...], tuple[Tensor, ...]]] = []
        self.casts: dict[int, tuple[Tensor, Tensor]] = {}  # by the id of the result: it and its source

    def run(self, function: Any, inner: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """What ``function.apply(*inner)`` returns."""
        shortcut = Shortcut(function, inner)
        outputs = shortcut.start(inner)
        self.runs.append((shortcut, inner, outputs))
        return outputs


def cast(t: Tensor, dtype: torch.dtype) -> Tensor:
    """``t.to(dtype)``, which a plan may repeat."""
    result = t.to(dtype)
    if result is not t and not torch.compiler.is_compiling() and local.capture is not None:
        local.capture.casts[id(result)] = result, t
    return result


class Shortcut:
    """The way from the plain tensors of a public call to its op, and from the op's results to the call's."""

    def __init__(self, function: Any, inner: Sequence[Any]) -> None:
        self.function = function
        self.inner = [None if isinstance(a, Tensor) else a for a in inner]
        self.at = [at for at, a in enumerate(inner) if isinstance(a, Tensor)]
        self.wanted = torch.is_grad_enabled() and any(inner[at].requires_grad for at in self.at)
        tensors = [inner[at] for at in self.at]
        self.nested = any(isinstance(a, Tensor) for a in tree_leaves(self.inner))
        # Composed forms read values or call the library: nothing to plan, and what they free must be free.
        composed = any(isinstance(a, str) and a == "composed" for a in self.inner)
        self.planned = self.nested or composed or not _recordable(tensors)
        self.plan: Plan | None = None
        self.kept: _Context | None = None
        self.backwards: dict[Any, Plan | None] = {}

    def joins(self, capture: Capture, tensors: list[Tensor], result: Any) -> None:
        """Find the op's arguments among the call's ``tensors``, and ``result`` among what the op returned."""
        ((_, inner, outputs),) = capture.runs
        if self.nested:
            raise Declined
        places = {id(t): i for i, t in enumerate(tensors)}
        self.order: list[int] = []  # of the call's tensors, as the op takes them
        self.casts: list[tuple[int, torch.dtype]] = []  # of some of these
        for at in self.at:
            _, source = capture.casts.get(id(inner[at]), (None, inner[at]))
            if source is not inner[at]:
                self.casts.append((len(self.order), inner[at].dtype))
            self.order.append(_found(places, source))
        returned = {id(t): i for i, t in enumerate(outputs)}
        self.one = isinstance(result, Tensor)
        self.returned = [_found(returned, t) for t in ([result] if self.one else result)]

    def run(self, tensors: list[Tensor]) -> Any:
        """The public call on tensors like those that the shortcut was found with."""
        given = [tensors[i] for i in self.order]
        for i, dtype in self.casts:
            given[i] = given[i].to(dtype)
        if self.plan is not None and not self.wanted:
            outputs = self.plan.run(given)
        else:
            inner = self.inner.copy()
            for at, t in zip(self.at, given, strict=True):
                inner[at] = t
            outputs = self.start(inner)
        return outputs[self.returned[0]] if self.one else tuple(outputs[i] for i in self.returned)

    def start(self, inner: Sequence[Any]) -> tuple[Tensor, ...]:
        """The op on its own arguments."""
        if not self.wanted:
            return self.forward(inner)
        local.shortcut = self
        outputs: tuple[Tensor, ...] = self.function.short_apply(*inner)
        return outputs

    def forward(self, inner: Sequence[Any]) -> tuple[Tensor, ...]:
        """The op's forward on its own arguments."""
        tensors = [inner[at] for at in self.at]
        if self.plan is not None:
            return self.plan.run(tensors)
        if self.planned:
            return self.function.forward(*inner)
        outputs, self.plan = _recorded(self.function.forward, inner, tensors)
        self.planned = True
        return outputs

    def keep(self, ctx: Any, inner: Sequence[Any], outputs: tuple[Tensor, ...]) -> None:
        """What the op's ``setup_context`` does to ``ctx``: seen once, then done."""
        if self.kept is None:
            self.kept = _Context(ctx, self.function.setup_context, inner, outputs)
        ctx.set_materialize_grads(False)
        if not self.kept.known:
            self.function.setup_context(ctx, inner, outputs)
            return
        values = (*inner, *outputs)
        ctx.__dict__.update(self.kept.constants)
        ctx.save_for_backward(*[None if i is None else values[i] for i in self.kept.saved])
        ctx.mark_non_differentiable(*[values[i] for i in self.kept.marked])

    def backward(self, ctx: Any, dys: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        """The op's backward; what was saved may have been laid out anew by hooks."""
        saved, wanted = ctx.saved_tensors, ctx.needs_input_grad
        # Saved tensors are unpacked once: checkpoints allow no more.
        seen = SimpleNamespace(**ctx.__dict__, saved_tensors=saved, needs_input_grad=wanted)
        tensors = [t for t in (*dys, *saved) if t is not None]
        batched = any(map(torch._C._functorch.is_legacy_batchedtensor, tensors))  # autograd's own vmap
        if self.plan is None or batched or not plain(tensors):
            return self.function.backward(seen, *dys)
        parts = [wanted, *_state(), *(t is None for t in dys)]
        for t in tensors:
            parts += (t.shape, t.stride(), t.dtype, t.device)
        key = tuple(parts)
        plan = self.backwards.get(key, MISSING)
        if plan is MISSING and _recordable(tensors):
            _make_room(self.backwards)
            grads, self.backwards[key] = _recorded(self.function.backward, (seen, *dys), tensors)
            return grads
        if not isinstance(plan, Plan):
            return self.function.backward(seen, *dys)
        try:
            return plan.run(tensors)
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
        self.saved = [None if t is None else places.get(id(t)) for t in saved]
        self.marked = [places[id(t)] for t in marked if id(t) in places]


def _found(places: dict[int, int], t: Any) -> int:
    """Where the very tensor ``t`` is; a view or copy of another is no way that can be gone again."""
    if id(t) not in places:
        raise Declined
    return places[id(t)]


def _recordable(tensors: list[Tensor]) -> bool:
    """Whether a plan can be made with them: on one device that runs kernels, and none given twice."""
    distinct = len({*map(id, tensors)}) == len(tensors)
    devices = {t.device for t in tensors}
    return distinct and len(devices) == 1 and devices.pop().type in ("cpu", "cuda")


#: PyTorch keeps flags of the modes that are on for all threads, and they are not to be left behind.
_recording = threading.Lock()


def _recorded(fn: Callable[..., Any], args: Sequence[Any], tensors: list[Tensor]) -> tuple[Any, Plan | None]:
    """``fn(*args)`` and its plan; without one where another thread is at it."""
    if not _recording.acquire(blocking=False):
        return fn(*args), None
    recorder = Recorder(tensors)
    launch.local.recorder = recorder
    try:
        with recorder:
            result = fn(*args)
        return result, recorder.plan(result)
    finally:
        launch.local.recorder = None
        _recording.release()


def _make_room(plans: dict[Any, Any]) -> None:
    """Drop the oldest of a full table; another thread may be at it as well."""
    if len(plans) >= MOST:
        for key in list(plans)[: len(plans) - MOST + 1]:
            plans.pop(key, None)


def plain(tensors: list[Tensor]) -> bool:
    """Whether all are what they seem: no subclass, no pending negation, no zeros without memory."""
    odd = any(map(Tensor.is_neg, tensors)) or any(map(Tensor._is_zerotensor, tensors))
    return PLAIN.issuperset(map(type, tensors)) and not odd


def short(fn: Function) -> Function:
    """A public function whose calls of known shapes take the short way."""
    shortcuts: dict[Any, Any] = {}  # SEEN once, a Shortcut, or None where there is none
    ledger.forget.append(shortcuts.clear)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        found = None if watched() else _keyer()(args, kwargs)
        if found is None:
            return fn(*args, **kwargs)
        parts, tensors = found
        key = parts, _is_grad_enabled(), _state()
        try:
            known = shortcuts.get(key, MISSING)
        except Exception:  # an argument that cannot be looked up: the long way says what is wrong with it
            return fn(*args, **kwargs)
        if isinstance(known, Shortcut):
            with contextlib.suppress(Declined):
                return known.run(tensors)
        elif known is MISSING:  # a shape that does not come again is not worth a plan
            _make_room(shortcuts)
            shortcuts[key] = SEEN
        elif known is SEEN:
            return _learned(fn, args, kwargs, tensors, shortcuts, key)
        return fn(*args, **kwargs)

    call.shortcuts = shortcuts  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


@functools.cache
def _keyer() -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
    """The core's ``key``, wherever there is a core; else Python's."""
    found = next((m.key for m in map(_native.module, ("cuda", "cpu")) if hasattr(m, "key")), None)
    return key_of if found is None else functools.partial(found, Tensor, nn.Parameter)


def key_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], list[Tensor]] | None:
    """What to look up, and the tensors in order, of a call's arguments; None where it must go the long way."""
    tensors: list[Tensor] = []
    parts: list[Any] = []
    try:
        _add_key((args, *chain.from_iterable(kwargs.items())), parts, tensors)
        for t in tensors:
            parts += (t.shape, t.stride(), t.dtype, t.device, t.requires_grad)
    except (TypeError, RuntimeError):  # a subclass; a tensor without strides
        return None
    return (tuple(parts), tensors) if plain(tensors) else None


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
    before, local.capture = local.capture, Capture()
    try:
        result, capture = fn(*args, **kwargs), local.capture
    finally:
        local.capture = before
    if len({*map(id, tensors)}) < len(tensors):
        return result  # a key does not tell one tensor given twice from two
    shortcuts[key] = None
    if len(capture.runs) == 1:
        shortcut = capture.runs[0][0]
        with contextlib.suppress(Declined):
            shortcut.joins(capture, tensors, result)
            shortcuts[key] = shortcut
    return result
