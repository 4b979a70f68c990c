"""Numeric checks of a swap: the same input through both forwards, with everything the runs change put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..nn.base import Fused, has_hooks
from ..nn.norm import synchronises

#: Largest difference over the largest value: wide enough for TF32 and BatchNorm over few values, far below any
#: difference that another order, grid convention or normalisation makes.
BUDGET = {torch.float64: 1e-8, torch.float32: 5e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Run without gradients, then put back buffers, every module's mode and the random state."""
    modes = [(m, m.training) for m in model.modules()]
    buffers = [(m, name, b, b.clone()) for m in model.modules() for name, b in m._buffers.items() if b is not None]
    devices = {t.device for t in (*model.parameters(), *model.buffers()) if t.is_cuda}
    with torch.random.fork_rng(devices), torch.no_grad():
        try:
            yield
        finally:
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer.copy_(value)
            for module, mode in modes:
                module.training = mode


def run(model: nn.Module, example_input: Any) -> Any:
    """The model's output on ``example_input`` (a tensor, positional arguments, or keyword arguments) as it stands."""
    with preserved(model):
        if isinstance(example_input, dict):
            return model(**example_input)
        return model(*example_input) if isinstance(example_input, list | tuple) else model(example_input)


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


def self_check(module: Fused, own_class: bool) -> str | None:
    """Why the swapped ``module`` is not accepted: its two forwards differ on random input, in eval or train mode.

    The ops run as their PyTorch reference: what is checked is that the module computes what its structure says.
    """
    units, weight = module.units(module), module.like(module)
    if weight.is_meta:
        return None
    if has_hooks(module):
        return None if own_class else "a child has hooks, which checking this class would run; remove them first"
    chosen, module.kernel_backend = module.kernel_backend, "reference"
    try:
        return _compare(module, weight, any(synchronises(unit.norm) for unit in units))
    finally:
        module.kernel_backend = chosen


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
