"""What PyTorch's own operators move and multiply in a call, from their shapes: a library's, or eager's chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from pyramid_kernels.ops._shared.spec import Arg, Case, map_args
from pyramid_kernels.verification.oracle import call

#: Operators that launch nothing.
_FREE = ("empty", "new_empty", "detach", "_unsafe_view")


class Work(NamedTuple):
    ops: int
    bytes: int  # of operators that multiply no matrices
    flops: int  # of those that do

    def scaled(self, factor: float) -> Work:
        """Of a call on that many times the data."""
        return Work(self.ops, round(self.bytes * factor), round(self.flops * factor))

    def __add__(self, other: Work) -> Work:  # type: ignore[override]
        return Work(*(a + b for a, b in zip(self, other, strict=True)))


class Watched(TorchDispatchMode):
    """Adds up ``work`` while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.work = Work(0, 0, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "aten":  # one of the package's: what it calls counts
            with self:
                return func._op_dk(torch._C.DispatchKey.CPU, *args, **(kwargs or {}))
        if func._can_decompose():  # below autograd such as conv2d arrives whole
            with self:
                return func.decompose(*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.is_view or name.startswith(_FREE):
            return out
        if counted := flop_registry.get(func.overloadpacket):
            self.work += Work(1, 0, counted(*args, **(kwargs or {}), out_val=out))
        else:
            tensors = {id(t): t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)}
            self.work += Work(1, sum(t.numel() * t.element_size() for t in tensors.values()), 0)
        return out


def eager(op: str, case: Case, dtype: torch.dtype, channels_last: bool) -> tuple[Work, Work]:
    """Of the unfused chain's forward, and of its backward, at the case's whole size: nothing is computed."""

    def build(a: Arg) -> Tensor:
        kind = torch.long if a.kind == "labels" else dtype
        t = torch.empty(a.shape, dtype=kind, device="meta")
        if channels_last and t.dim() == 4:
            t = t.contiguous(memory_format=torch.channels_last)
        return t.requires_grad_(a.grad and a.kind != "labels")

    arguments = {name: map_args(build, value) for name, value in case.args.items()}
    outputs, forward = watched(lambda: call(op, arguments, "reference"))
    wanted = [y for y in outputs if y.requires_grad]
    if not wanted:
        return forward, Work(0, 0, 0)
    dys = [torch.empty_like(y) for y in wanted]
    _, backward = watched(lambda: torch.autograd.backward(wanted, dys))
    return forward, backward


def watched(fn: Callable[[], Any]) -> tuple[Any, Work]:
    with Watched() as seen:
        result = fn()
    return result, seen.work
