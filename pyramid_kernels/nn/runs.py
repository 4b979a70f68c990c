"""Runs of a model that leave no trace, and how far two of them may be apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

#: Largest difference over the largest value: wide enough for TF32 and BatchNorm over few values, far below any
#: difference that another order, grid convention or normalisation makes.
BUDGET = {torch.float64: 1e-8, torch.float32: 5e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


@contextmanager
def same_modes(model: nn.Module) -> Iterator[None]:
    """Put every module back into the mode it stood in."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Run without gradients, then put back buffers, every module's mode and the random state."""
    buffers = [(m, name, b, b.clone()) for m in model.modules() for name, b in m._buffers.items() if b is not None]
    devices = {t.device for t in (*model.parameters(), *model.buffers()) if t.is_cuda}
    with torch.random.fork_rng(devices), torch.no_grad(), same_modes(model):
        try:
            yield
        finally:
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer.copy_(value)
