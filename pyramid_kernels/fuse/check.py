"""Numeric checks of a swap: the same input through both forwards, with everything the runs change put back."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._pytree import tree_leaves, tree_map

from ..nn.base import Fused, has_hooks
from ..nn.norm import synchronises
from ..nn.runs import BUDGET, preserved

#: Parameters and buffers of the largest module on meta that is checked, by a copy on the CPU.
LARGEST_ON_META = 1 << 26


def run(model: nn.Module, example_input: Any) -> Any:
    """The model's output on ``example_input`` (a tensor, positional arguments, or keyword arguments) as it stands."""
    with preserved(model):
        args, kwargs = as_arguments(example_input)
        return model(*args, **kwargs)


def as_arguments(example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What ``example_input`` is by position and by name."""
    # Some forwards write to the tensors, and HRNet's into the list, that they are given.
    given = tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, example_input)
    if isinstance(given, dict):
        return (), given
    return (tuple(given) if isinstance(given, list | tuple) else (given,)), {}


def difference(expected: Any, got: Any) -> str | None:
    """How two outputs differ beyond the budget of their dtype; None if they do not."""
    pairs = list(zip(tree_leaves(expected), tree_leaves(got), strict=True))
    for a, b in pairs:
        if not (isinstance(a, Tensor) and a.is_floating_point()):
            continue
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{b.dtype} {tuple(b.shape)} in place of {a.dtype} {tuple(a.shape)}"
        wide = torch.float64 if a.dtype == torch.float64 else torch.float32
        error, largest = (t.to(wide).abs().max().item() if t.numel() else 0.0 for t in (a.to(wide) - b.to(wide), a))
        if not error <= BUDGET[a.dtype] * largest:
            return f"a difference of {error:.2g} where the largest value is {largest:.2g}"
    return None


def self_check(module: nn.Module, kind: type[Fused], own_class: bool) -> str | None:
    """Why ``module`` is not to become a ``kind``: its two forwards differ on random input, in eval or train mode.

    Both run on a copy with weights of its own, since zeros and small gains would hide a difference. The ops run as
    their PyTorch reference: what is checked is that the module computes what its structure says. The copy has values,
    whatever the mode or the default device under which a model without values is fused.
    """
    if why_unchecked(module):
        return None
    if has_hooks(module):
        return None if own_class else "a child has hooks, which checking this class would run; remove them first"
    with unset_fake_temporarily(), torch.device("cpu"):
        with torch.no_grad():
            twin = _redrawn(module)
        twin.__class__ = kind
        twin.kernel_backend = "reference"
        return _compare(twin, kind.like(twin), any(synchronises(unit.norm) for unit in kind.units(twin)))


def why_unchecked(module: nn.Module) -> str | None:
    """Why there is no copy to check: the module holds no values, and more than a check may take memory for."""
    if not any(map(_is_empty, _tensors(module))):
        return None
    size = sum(t.numel() for t in _tensors(module))
    return f"unchecked: {size} values on meta" if size > LARGEST_ON_META else None


def holds_no_values(model: nn.Module, example_input: Any) -> bool:
    """Whether the model cannot be run on ``example_input`` because a tensor of either is on meta, or fake."""
    given = (t for t in tree_leaves(example_input) if isinstance(t, Tensor))
    return any(map(_is_empty, chain(_tensors(model), given)))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _is_empty(t: Tensor) -> bool:
    """Whether ``t`` has a shape and no values."""
    return t.is_meta or isinstance(t, FakeTensor)


def _valued(t: Tensor) -> Tensor:
    return torch.zeros(t.shape, dtype=t.dtype)


def _redrawn(module: nn.Module) -> Any:
    """A copy without hooks whose every weight and statistic shows in the result; on the CPU where it had no values."""
    memo: dict[int, Any] = {id(hooks): OrderedDict() for name, hooks in vars(module).items() if name.endswith("_hooks")}
    # deepcopy refuses what spectral_norm leaves behind: tensors with a graph.
    attributes = (value for m in module.modules() for value in vars(m).values())
    memo |= {id(t): t.detach().clone() for t in attributes if isinstance(t, Tensor) and not t.is_leaf}
    twin = copy.deepcopy(module, memo)
    for m in twin.modules():
        for name, p in m._parameters.items():
            m._parameters[name] = nn.Parameter(_valued(p)) if p is not None and _is_empty(p) else p
        for name, b in m._buffers.items():
            m._buffers[name] = _valued(b) if b is not None and _is_empty(b) else b
    generator = torch.Generator().manual_seed(0)
    for m in twin.modules():
        norm = "running_var" in m._buffers
        for name, t in [*m._parameters.items(), *(m._buffers.items() if norm else ())]:
            if t is not None and t.is_floating_point():
                t.copy_(_draw(name, t.shape, generator))
    return twin


def _draw(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Gains and variances about 1, other vectors of either sign, weights that keep the size of what they meet."""
    if len(shape) < 2 and name in ("weight", "running_var"):
        return 0.75 + torch.rand(shape, generator=generator) / 2
    fan_in = shape[1:].numel() if len(shape) > 1 else 4
    return torch.randn(shape, generator=generator) / fan_in**0.5


def _compare(module: Fused, weight: Tensor, eval_only: bool) -> str | None:
    generator = torch.Generator().manual_seed(0)

    def new(channels: int, stride: int) -> Tensor:
        return torch.randn(2, channels, max(1, 32 // stride), max(1, 64 // stride), generator=generator).to(weight)

    x = module.example(module, new)
    for training in (False,) if eval_only else (False, True):
        expected, got = (_outcome(module, forward, x, training) for forward in (module.original.forward, _fused))
        reason = difference(expected, got)
        if reason:
            return f"its own forward gives another result in {'train' if training else 'eval'} mode: {reason}"
    return None


def _fused(module: Fused, *x: Any) -> Tensor:
    return module.fused_forward(list(x) if module.spreads_maps else x[0])


def _outcome(module: Fused, forward: Callable[..., Tensor], x: Any, training: bool) -> list[Tensor]:
    """The output and the buffers after it, from the same random state."""
    with preserved(module):
        torch.manual_seed(0)
        module.train(training)
        # Some forwards write to the list of maps that they are given.
        own = list(x) if isinstance(x, list) else x
        return [
            forward(module, *own) if module.spreads_maps else forward(module, own),
            *(buffer.clone() for buffer in module.buffers()),
        ]
