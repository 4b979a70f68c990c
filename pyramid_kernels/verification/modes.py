"""Two dispatch modes under which the oracle runs a call: one rounds every result, one watches every allocation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from ..ops._shared import launch

#: Bytes of guard band on either side of every buffer; all bits set, which is NaN in every floating dtype.
GUARD = 1 << 16

_ALLOCATIONS = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided"}
_NORMS = {
    op: torch._decomp.decomposition_table[op]
    for op in (torch.ops.aten.native_batch_norm.default, torch.ops.aten.native_batch_norm_backward.default)
}
_CONVOLUTIONS = {"convolution", "convolution_backward"}


class Rounded(TorchDispatchMode):
    """Runs an fp32 chain as if every result were stored in ``dtype``: the unfused baseline of a half-precision op.

    Views alias what is rounded already, an in-place result is rounded where it lies, and 1-D tensors stay fp32, as
    normalisation parameters and statistics do in mixed precision. Sums are fp32 sums in the plainest order: on a CPU
    PyTorch takes those of a BatchNorm in float64. ``tf32`` cuts the operands of convolutions to 10 mantissa bits.
    """

    def __init__(self, dtype: torch.dtype, tf32: bool = False) -> None:
        super().__init__()
        self.dtype, self.tf32 = dtype, tf32

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.tf32 and func.overloadpacket.__name__ in _CONVOLUTIONS:
            args = tree_map_only(Tensor, _to_tf32, args)
        result = self._call(func, args, kwargs or {})
        if func.is_view or self.dtype == torch.float32:
            return result
        for t in tree_leaves(result):
            if isinstance(t, Tensor) and t.dtype == torch.float32 and t.dim() > 1:
                t.copy_(t.to(self.dtype))
        return result

    def _call(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is torch.ops.aten.sum.dim_IntList and args[0].dtype == torch.float32:
            return _plain_sum(*args, **kwargs)
        if func in _NORMS:
            with Rounded(torch.float32):
                return _NORMS[func](*args, **kwargs)
        return func(*args, **kwargs)


def _plain_sum(t: Tensor, dims: list[int] | None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Tensor:
    """One term after the other."""
    reduced = sorted(d % t.dim() for d in (dims or range(t.dim())))
    terms = t.movedim(reduced, list(range(len(reduced)))).flatten(0, len(reduced) - 1)
    total = torch.zeros_like(terms[0]) if len(terms) else terms.sum(0)
    for term in terms:
        total = total + term
    return total.view([1 if d in reduced else s for d, s in enumerate(t.shape)]) if keepdim else total


def _to_tf32(t: Tensor) -> Tensor:
    """fp32 cut to 10 mantissa bits: tensor cores ignore the others of an fp32 operand."""
    if t.dtype != torch.float32:
        return t
    return (t.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


class Watched(TorchDispatchMode):
    """Looks inside the package's ops: poisons what they allocate, counts what else they call.

    ``calls`` counts ATen calls other than allocations and views; ``raw`` holds (operator, arguments) of each
    registered op; ``overruns()`` describes every buffer whose guard band was written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.raw: list[tuple[Any, tuple[Any, ...]]] = []
        self.buffers: list[tuple[Tensor, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "pyramid_kernels":
            self.raw.append((func, args))
            device = next(t for t in tree_leaves(args) if isinstance(t, Tensor)).device.type
            key = torch._C.DispatchKey.CUDA if device == "cuda" else torch._C.DispatchKey.CPU
            with self:  # a mode is off inside its own handler; the implementation is to be seen too
                return func.redispatch(torch._C.DispatchKeySet(key), *args, **kwargs)
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name in _ALLOCATIONS:
            return self._poisoned(result)
        if not func.is_view and name != "_unsafe_view":
            self.calls[name] += 1
        return result

    def _poisoned(self, t: Tensor) -> Tensor:
        length = 1 + sum((s - 1) * d for s, d in zip(t.shape, t.stride(), strict=True)) if t.numel() else 0
        bytes_ = -(-length * t.element_size() // 16) * 16
        raw = torch.full((bytes_ + 2 * GUARD,), 255, dtype=torch.uint8, device=t.device)
        self.buffers.append((raw, f"a {tuple(t.shape)} {t.dtype} buffer"))
        inside = raw[GUARD : GUARD + bytes_].view(t.dtype)
        return inside.as_strided(t.shape, t.stride(), inside.storage_offset())

    def overruns(self) -> list[str]:
        bands = ((raw[:GUARD], raw[-GUARD:], what) for raw, what in self.buffers)
        return [f"the guard band around {what} was written" for low, high, what in bands if (low & high).min() < 255]


@contextmanager
def watched() -> Iterator[Watched]:
    """Run a block under ``Watched``; what Triton itself does during a launch is left out."""
    start = launch.start

    def unseen(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], meta: dict[str, Any]) -> None:
        with _disable_current_modes():
            start(kernel, grid, args, meta)

    launch.start = unseen
    try:
        with Watched() as mode:
            yield mode
    finally:
        launch.start = start
