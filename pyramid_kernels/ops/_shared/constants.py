"""What a frozen module derives from its weights, kept between its calls: repacked, folded and composed weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from . import launch

T = TypeVar("T")


class Constants:
    """Results of ``derived`` inside a ``with`` block of this object. A copy starts without any."""

    def __init__(self) -> None:
        self._kept: dict[Any, tuple[list[Any], Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Constants, ()

    def __enter__(self) -> None:
        self._token = _active.set(self)

    def __exit__(self, *_: Any) -> None:
        _active.reset(self._token)

    def get(self, fn: Callable[..., T], args: tuple[Any, ...]) -> T:
        leaves = list(_leaves(args))
        if any(isinstance(leaf, Tensor) and not isinstance(leaf, nn.Parameter) for leaf in leaves):
            return fn(*args)  # of a cast copy, which another call does not see again
        versions = [version for leaf in leaves for version in _versions(leaf)]
        key = (fn, *(id(leaf) if isinstance(leaf, Tensor | nn.Module) else leaf for leaf in leaves))
        if key not in self._kept or self._kept[key][0] != versions:
            with torch.no_grad():
                # The arguments are kept too: another tensor must not get their id.
                self._kept[key] = versions, (fn(*args), args)
        return self._kept[key][1][0]


_active: ContextVar[Constants | None] = ContextVar("constants", default=None)


def derived(fn: Callable[..., T], *args: Any) -> T:
    """``fn(*args)`` of weights, modules and settings; a frozen module computes it once for the same values."""
    constants = None if torch.compiler.is_compiling() else active()
    if constants is None:
        return fn(*args)
    recorder = launch.local.recorder
    if recorder is None:
        return constants.get(fn, args)
    launch.local.recorder = None  # a plan asks for the constant, and does not make it
    try:
        with _disable_current_modes():
            result = constants.get(fn, args)
    finally:
        launch.local.recorder = recorder
    recorder.derived(fn, args, result)
    return result


#: The constants of the frozen module that is being called, or None.
active = _active.get


def _leaves(arg: Any) -> Iterator[Any]:
    if isinstance(arg, list | tuple):
        for item in arg:
            yield from _leaves(item)
    else:
        yield arg


def _versions(leaf: Any) -> Iterator[Any]:
    """What changes where values do: PyTorch's counter, or, where data is exchanged as a whole, its address."""
    tensors = [*leaf.parameters(), *leaf.buffers()] if isinstance(leaf, nn.Module) else [leaf]
    for t in filter(torch.is_tensor, tensors):
        yield t.data_ptr(), t.dtype, None if t.is_inference() else t._version
