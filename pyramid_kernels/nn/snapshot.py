"""What a decision about a module rests on, kept so that the next call can tell whether it still holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from operator import call, itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _module

from ..verification import ledger

#: Hooks that are set on all modules.
GLOBAL_HOOKS: tuple[dict[int, Any], ...] = (
    _module._global_forward_pre_hooks,
    _module._global_forward_hooks,
    _module._global_backward_pre_hooks,
    _module._global_backward_hooks,
)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
TABLES = ("_parameters", "_buffers", "_modules")
#: What every module has.
PLAIN = frozenset(vars(nn.Module()))

#: Answers for different inputs that one snapshot keeps.
MOST_ANSWERS = 64

_grad_on, _autocast_on = torch.is_grad_enabled, torch._C._is_any_autocast_enabled

#: How often recorded results, on which decisions rest, have changed.
_changes = [0]


def _count_change() -> None:
    _changes[0] += 1


ledger.forget.append(_count_change)


def descendants(module: nn.Module, called: Sequence[str] = ()) -> Iterator[nn.Module]:
    """All modules below ``module`` but the children ``called`` and what is below those."""
    for name, child in module._modules.items():
        if child is not None and name not in called:
            yield child
            yield from descendants(child)


class Snapshot:
    """A decision about a module, and the classes, attributes, children and parameters that it was made on.

    Everything is compared by identity first, in loops that run in C: a fraction of what one eager op costs per
    submodule. Not seen are a container changed in place (a list that is a plain attribute) and a class's own forward
    that is replaced.
    """

    def __init__(self, module: nn.Module, called: Sequence[str], reason: str | None, like: Tensor | None) -> None:
        self.reason = reason
        #: A tensor with the dtype of the weights.
        self.like = like
        self._answers: dict[Any, Any] = {}
        self._modules = [module, *descendants(module, called)]
        #: Whether a norm may take statistics from other ranks.
        self.synchronises = any(isinstance(m, nn.SyncBatchNorm) for m in self._modules)
        below = self._modules[1:]
        tables = [getattr(m, name) for m in self._modules for name in TABLES]
        hooks = [*GLOBAL_HOOKS, *(getattr(m, name) for m in below for name in HOOKS)]
        self._empty = [*hooks, *(table for table in tables if not table)]
        # Where there are hooks, the snapshot never holds: their removal is a change too.
        self._hooked = any(hooks)
        self._dicts = list(map(vars, self._modules))
        self._attributes = [itemgetter("training", "training", *filter(_counts(d), d)) for d in self._dicts]
        self._views = [table.values() for table in tables if table]
        self._seen = self._look()

    def _look(self) -> list[Any]:
        return [
            *map(type, self._modules),
            *map(len, self._dicts),
            *map(call, self._attributes, self._dicts),
            *chain.from_iterable(self._views),
        ]

    def holds(self, module: nn.Module) -> bool:
        """Whether this is a snapshot of ``module`` itself, not of what it is a shallow copy of, and nothing changed."""
        try:
            same = self._modules[0] is module and not self._hooked and not any(self._empty)
            return same and self._look() == self._seen
        except (KeyError, RuntimeError, TypeError, ValueError):  # an attribute is gone, or an array with no one ==
            return False

    def answer(self, x: Any, ask: Callable[[Any], str | None]) -> str | None:
        """``ask(x)``, a method's answer, asked once for inputs of the same properties."""
        dtype = None if self.like is None else self.like.dtype
        key = ask.__name__, properties(x), dtype, _grad_on(), _autocast_on(), _changes[0]
        known = self._answers.get(key, self)
        if known is not self:
            return known
        if len(self._answers) >= MOST_ANSWERS:
            self._answers.clear()
        self._answers[key] = answer = ask(x)
        return answer


def _counts(attributes: dict[str, Any]) -> Callable[[str], bool]:
    """Which of a module's attributes are compared: its own, and of those of every module the tables that are in use."""
    return lambda name: name not in PLAIN or (name in TABLES and bool(attributes[name]))


class Snapshots(dict[bool, Snapshot]):
    """A module's snapshots, by its ``training``. A copy of the module starts without any."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Snapshots, ()


def properties(x: Any) -> Any:
    """All of ``x`` that a decision may depend on, hashable."""
    if isinstance(x, Tensor):
        return type(x), x.shape, x.stride(), x.dtype, x.device, x.requires_grad
    if isinstance(x, list | tuple):
        return type(x), *map(properties, x)
    if isinstance(x, dict):
        return type(x), *((name, properties(value)) for name, value in x.items())
    return type(x)
