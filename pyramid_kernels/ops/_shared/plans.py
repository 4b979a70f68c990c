"""A call's steps on tensors of known shapes, as one Python function that asks nothing."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from . import launch, native

#: Nothing is known yet.
MISSING = object()


class Declined(Exception):
    """There is no plan for this call: it goes the long way."""


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
        self.constants: dict[str, Any] = {"Declined": Declined, "launch": launch}
        full = [f"a{i}" for i, t in enumerate(inputs) if t.data_ptr()]
        each = range(self.inputs)
        self.lines = [f"{''.join(f'{given[0]}{i}, ' for i in each)}= {given}" for given in ("tensors", "addresses")]
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
        """The lines but addresses that nothing asks, and after the last one that names a tensor the end of its life."""
        uses = Counter(a for line in self.lines for a in re.findall(r"\ba\d+\b", line))
        asked = [line for line in self.lines if uses[line.partition(" = ")[0]] != 1]
        last = {int(i): at for at, line in enumerate(asked) for i in re.findall(r"\b[ta](\d+)\b", line)}
        lines = []
        for at, line in enumerate(asked):
            ended = [f"t{i}" for i, end in last.items() if end == at and i >= self.inputs]
            lines += [line, *([f"del {', '.join(ended)}"] if ended and at + 1 < len(asked) else [])]
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
    if t.dtype != dtype:  # it is scratch
        t, offset = t[offset:].view(dtype), 0
    return t.as_strided(shape, stride, t.storage_offset() + offset // t.element_size())


class New(NamedTuple):
    """An allocation."""

    shape: Sequence[int]
    stride: Sequence[int]
    dtype: torch.dtype
    device: torch.device

    def write(self, to: Writer) -> None:
        slot = to.made()
        how = ", ".join(map(to.name, (tuple(self.shape), tuple(self.stride), self.dtype)))
        # What compiled graphs allocate by on the current device takes a third of the time.
        quick = getattr(torch._C._dynamo.guards, f"_empty_strided_{self.device.type}", None)
        if quick is None or self.device != to.device:
            quick = lambda size, stride, dtype: torch.empty_strided(size, stride, dtype=dtype, device=self.device)  # noqa: E731
        to.lines.append(f"t{slot} = {to.name(quick)}({how})")
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
        run, counted = to.name(self.call.run), to.name(native.counted(self.call, to.device))
        addresses = to.addresses([0 if ref is None else ref for ref in self.refs])
        asked = f"({run} if not launch.counters else {counted})"
        to.lines.append(f"{asked}({to.device.index or 0}, stream, {addresses})")


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


def _joined(steps: list[Any]) -> Iterator[Any]:
    """The steps, of which those of the core that follow one another are one: to enter it costs as much as a launch."""
    for kind, group in groupby(steps, type):
        some = list(group)
        if kind is Native and len(some) > 1:
            some = [Native(type(some[0].call).joined([s.call for s in some]), [r for s in some for r in s.refs])]
        yield from some


class Plan:
    """The steps of a call on plain tensors like ``inputs``, as one Python function, and where its results lie."""

    def __init__(self, inputs: list[Tensor], steps: list[Any], results: Any) -> None:
        writer = Writer(inputs)
        for step in _joined(steps):
            step.write(writer)
        writer.lines.append(f"return {writer.tensors(results)}")
        self.source = "def run(tensors, addresses):\n" + "".join(f"    {line}\n" for line in writer.freed())
        self.inputs, self.steps = len(inputs), steps
        exec(compile(self.source, "<plan>", "exec"), writer.constants)
        run = writer.constants.pop("run")
        self.run = functools.partial(launch.on_device, writer.device, run) if writer.device.type == "cuda" else run
