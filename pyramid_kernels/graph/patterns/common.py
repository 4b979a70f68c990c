"""Pieces that several patterns meet: a convolution with what follows it, a layer on pixels, an average."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch.fx import Node

from ..functions import BatchNorm
from ..view import Call, call, is_call, is_map, is_tensor, number, only_reader, pair, same, shape, value


class Conv(NamedTuple):
    """A same-padded convolution of stride 1, 1x1 or 3x3, one group."""

    node: Any
    input: Any
    weight: Node
    bias: Node | None
    kernel: int
    dilation: int
    pad: Node | None = None  # what pads the input with zeros, for this alone

    @property
    def nodes(self) -> list[Node]:
        return [self.node] if self.pad is None else [self.node, self.pad]


def convolution(node: Any) -> Conv | None:
    found: Any = call(node, "conv")
    if found is None or not is_map(node) or not is_map(found.input) or not is_tensor(found.weight):
        return None
    _, _, rows, columns = shape(found.weight)
    dilation = pair(found.dilation)
    plain = found.groups == 1 and pair(found.stride) == (1, 1) and rows == columns and rows in (1, 3)
    if not plain or dilation[0] != dilation[1]:
        return None
    kernel, rate = int(rows), dilation[0] if rows == 3 else 1
    pad: Any = call(found.input, "pad")
    if pad is not None and only_reader(pad.node) is node and pair(found.padding) == (0, 0):
        zeros = pad.arguments.get("mode", "constant") == "constant" and pad.value in (None, 0)
        if not zeros or list(pad.pad) != [kernel // 2 * rate] * 4:
            return None
        return Conv(node, pad.input, found.weight, found.bias, kernel, rate, pad.node)
    return Conv(node, found.input, found.weight, found.bias, kernel, rate) if padded(found, kernel) else None


def padded(conv: Call, kernel: int) -> bool:
    """Whether the result has the size of the input."""
    if conv.padding in ("same", "valid"):
        return bool(conv.padding == "same" or kernel == 1)
    return pair(conv.padding) == tuple(kernel // 2 * d for d in pair(conv.dilation))


def is_dilated(node: Any) -> bool:
    found = call(node, "conv")
    return found is not None and pair(found.dilation) != (1, 1)


class Unit(NamedTuple):
    """A convolution, the norm and the ReLU that alone read it."""

    conv: Conv
    norm: Call | None
    relu: Node | None

    @property
    def nodes(self) -> list[Node]:
        norm = None if self.norm is None else self.norm.node
        return [*self.conv.nodes[::-1], *(n for n in (norm, self.relu) if n is not None)]

    @property
    def last(self) -> Node:
        return self.nodes[-1]

    @property
    def trained(self) -> bool:
        """Whether the norm takes the statistics of the batch."""
        return self.norm is not None and bool(number(self.norm.training))

    def batch_norm(self) -> BatchNorm | None:
        """The norm for a graph's function, with the convolution's bias."""
        return batch_norm(self.norm, self.conv.bias)

    def without_norm(self) -> Unit:
        return Unit(self.conv, None, None)


def batch_norm(norm: Any, bias: Node | None = None) -> BatchNorm | None:
    """A norm for a graph's function, with the bias in front of it or without."""
    if norm is None:
        return None
    return BatchNorm(norm.weight, norm.bias, norm.mean, norm.var, number(norm.momentum), number(norm.eps), bias)


def unit(conv: Conv) -> Unit:
    """The convolution with what follows it, as far as nothing else reads in between."""
    norm = call(only_reader(conv.node), "batch_norm")
    if norm is not None and norm.input is not conv.node:
        norm = None
    last = conv.node if norm is None else norm.node
    reader = only_reader(last)
    return Unit(conv, norm, reader if is_call(reader, "relu", "relu_") else None)


def concat(node: Any) -> tuple[list[Node], list[Node]] | None:
    """The maps that ``node`` concatenates over channels, through concats that it alone reads, and these nodes."""
    found = call(node, "cat")
    if found is None or not is_map(node) or number(found.dim) not in (1, -3):
        return None
    if not isinstance(found.tensors, list | tuple) or not all(map(is_map, found.tensors)):
        return None
    maps: list[Node] = []
    nodes: list[Node] = [node]
    for m in found.tensors:
        inner = concat(m) if only_reader(m) is node else None
        maps += inner[0] if inner else [m]
        nodes += inner[1] if inner else []
    return maps, nodes


class Pixelwise(NamedTuple):
    """A 1x1 layer on the channels of ``input``, spelled as a convolution or as a linear layer on tokens."""

    input: Node
    weight: Node
    bias: Node | None
    nodes: list[Node]


def pixelwise(node: Any) -> Pixelwise | None:
    conv = convolution(node)
    if conv is not None:
        return Pixelwise(conv.input, conv.weight, conv.bias, conv.nodes) if conv.kernel == 1 else None
    return _on_tokens(node)


def _on_tokens(node: Any) -> Pixelwise | None:
    """A linear layer between changes of form that undo each other: flatten, transpose, linear, permute, reshape."""
    if not is_map(node):
        return None
    behind = list(_forms(node))
    linear = call(behind[-1].args[0] if behind else node, "linear")
    if linear is None or only_reader(linear.node) is None:
        return None
    before = list(_forms(linear.input))
    x: Any = before[-1].args[0] if before else linear.input
    if not is_map(x):
        return None
    layout: Any = ["n", "c", "h", "w"]
    for form in reversed(before):
        layout = _formed(form, layout)
    if not layout or layout[-1] != "c":
        return None
    for form in reversed(behind):
        layout = _formed(form, layout)
    sizes = shape(x)
    kept = layout == ["n", "c", "h", "w"] and same((shape(node)[0], *shape(node)[2:]), (sizes[0], *sizes[2:]))
    return Pixelwise(x, linear.weight, linear.bias, [*behind, linear.node, *before]) if kept else None


def _forms(node: Any) -> Iterator[Node]:
    """``node`` and those above it that only change the form of a tensor, as far as nothing else reads in between."""
    while is_call(node, "flatten", "transpose", "permute", "reshape", "movedim"):
        yield node
        node = node.args[0]
        if only_reader(node) is None:
            return


def _formed(node: Node, layout: list[str]) -> list[str]:
    """The dimensions behind ``node``, by the letters of what they hold; none where that cannot be said."""
    found: Any = call(node)
    rank = len(layout)
    if found.name == "transpose":
        layout = list(layout)
        a, b = found.dim0 % rank, found.dim1 % rank
        layout[a], layout[b] = layout[b], layout[a]
        return layout
    if found.name == "permute":
        dims = found.dims[0] if len(found.dims) == 1 and isinstance(found.dims[0], list | tuple) else found.dims
        return [layout[d % rank] for d in dims]
    if found.name == "movedim":
        a, b = found.source % rank, found.destination % rank
        layout = list(layout)
        layout.insert(b, layout.pop(a))
        return layout
    if layout == ["n", "c", "h", "w"] and value(node).dim() == 3 and is_call(node, "flatten", "reshape"):
        return ["n", "c", "hw"]
    if layout == ["n", "h", "w", "c"] and value(node).dim() == 3:
        return ["n", "hw", "c"]
    if layout == ["n", "c", "hw"] and value(node).dim() == 4:
        return ["n", "c", "h", "w"]
    if layout == ["n", "hw", "c"] and value(node).dim() == 4:
        return ["n", "h", "w", "c"]
    return []


def pooled(node: Any, flat: bool = False) -> tuple[Node, tuple[int, int], list[Node]] | None:
    """(x, grid, nodes) if ``node`` averages the map x over the cells of a fixed grid; ``flat``: or to (N, C)."""
    found = call(node, "adaptive_pool", "mean", "avg_pool")
    if found is None or not is_tensor(node) or not is_tensor(found.input):
        return None
    x: Any = found.input
    nodes = [node]
    if found.name != "mean" and not is_map(x):
        return None
    if found.name == "adaptive_pool":
        grid = pair(found.output_size)
        return (x, grid, nodes) if all(isinstance(g, int) for g in grid) else None
    if found.name == "avg_pool":
        whole = same([value(k) for k in pair(value(found.kernel_size))], shape(x)[2:])
        plain = pair(found.padding) == (0, 0) and found.divisor_override is None
        return (x, (1, 1), nodes) if whole and plain else None
    while (value(x).dim() == 3 and is_call(x, "flatten", "reshape")) or _over_pixels(x):
        if only_reader(x) is not nodes[-1]:
            return None
        nodes.append(x)
        x = x.args[0]
    kept = is_map(x) and _averaged(nodes) and (flat or is_map(node))
    return (x, (1, 1), nodes) if kept and same(shape(node)[:2], shape(x)[:2]) else None


def _over_pixels(node: Any) -> bool:
    """Whether ``node`` is a mean over the rows or the columns of a map."""
    found = call(node, "mean")
    return found is not None and is_map(found.input) and dims(found) in ([2], [3])


def _averaged(nodes: list[Node]) -> bool:
    """Whether means, the last first, and forms between them leave one number of every channel of a map."""
    layout = ["n", "c", "h", "w"]
    for node in reversed(nodes):
        found = call(node, "mean")
        if found is None:
            layout = _formed(node, layout)
        elif found.dtype is None:
            over = dims(found)
            layout = ["1" if i in over else letter for i, letter in enumerate(layout) if found.keepdim or i not in over]
    return [letter for letter in layout if letter != "1"] == ["n", "c"] == layout[:2]


def dims(found: Call) -> list[int]:
    """The dimensions that a mean or a sum is over, in order; none where it is over all."""
    given = found.dim if isinstance(found.dim, list | tuple) else [] if found.dim is None else [found.dim]
    return sorted(d % value(found.input).dim() for d in given)
