"""Writes down what a call does, as steps of a ``Plan``.

Each allocation, view, launch and ATen call, and from which tensor each address came. Where a value is read, which
another call may not have, there is no plan.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from . import constants, launch
from .plans import MISSING, Aten, Native, New, Plan, Ref, Triton

#: Bytes at whose multiples the scratch buffers of one plan begin, which share an allocation.
ALIGNED = 256

_ALLOCATIONS = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided"}
_READS_VALUES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class Recorder(TorchDispatchMode):
    """Writes down what happens to ``inputs`` inside its block; ``steps`` is None once something cannot be repeated."""

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()
        self.steps: list[Any] | None = []
        self.autocast = torch._C._is_any_autocast_enabled()
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
        elif _READS_VALUES.intersection(func.tags) or torch._C._is_any_autocast_enabled() != self.autocast:
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
        """What repeats the call that returned ``results``; None where nothing can, or where no kernel ran."""
        found = self._refs(results)
        if not isinstance(results, Tensor) and type(results) not in (list, tuple):
            return None
        if self.steps is None or not any(isinstance(step, Native | Triton) for step in self.steps):
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
    seen = {ref.slot for ref in _refs_in((results, steps))}
    kept: dict[int, set[Ref]] = {}
    for ref in _refs_in((results, [step[1:3] for step in steps if isinstance(step, Aten)])):
        kept.setdefault(ref.slot, set()).add(ref)
    places: dict[int, tuple[int, int]] = {i: (i, 0) for i in range(inputs)}
    fewer: list[Any] = []
    slot = slots = inputs
    block, size = None, 0
    for step in steps:
        made = 1 if isinstance(step, New) else len(step.new) if isinstance(step, Aten) else 0
        if isinstance(step, New) and slot not in seen:
            pass
        elif isinstance(step, New) and slot not in kept:
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


def recordable(tensors: list[Tensor]) -> bool:
    """Whether a plan can be made with them: on one device that runs kernels, and none given twice."""
    distinct = len({*map(id, tensors)}) == len(tensors)
    devices = {t.device for t in tensors}
    return distinct and len(devices) == 1 and devices.pop().type in ("cpu", "cuda")


#: PyTorch keeps flags of the modes that are on for all threads, and they are not to be left behind.
_recording = threading.Lock()


def recorded(fn: Callable[[], Any], tensors: list[Tensor]) -> tuple[Any, Any]:
    """``fn()`` of ``tensors``, and its plan or None where there is none; MISSING while another thread records."""
    if not _recording.acquire(blocking=False):
        return fn(), MISSING
    recorder = Recorder(tensors)
    launch.local.recorder = recorder
    try:
        with recorder:
            result = fn()
        return result, recorder.plan(result)
    finally:
        launch.local.recorder = None
        _recording.release()
