"""Resized maps summed, or concatenated for a reader that is no convolution."""

from __future__ import annotations

from typing import Any

from torch import SymFloat, SymInt
from torch.fx import Node

from .. import functions
from ..match import Left, Match
from ..order import Order
from ..view import Call, call, is_call, is_map, is_tensor, only_reader, same, shape, value
from .common import concat, dims
from .resample import meeting, resized
from .resizes import Upsampling, upsampling


def sums(node: Node, order: Order) -> Match | Left | None:
    """``a + interpolate(b) + ...``, from the last addition on, and a ReLU behind it; the sum or mean of a stack."""
    if _operands(node) is None:
        return _subtracted(node)
    if _is_inner(node):
        return None
    terms, nodes = _terms(node)
    weights = [_weighed(term, nodes) for term in terms]
    nodes += [term for term, (_, weight) in zip(terms, weights, strict=True) if weight is not None]
    terms = [term for term, _ in weights]
    ups, reason = resized(terms, nodes)
    if not ups:
        return None if reason is None else Left("upsample_merge", node, reason)
    if not all(same(shape(t), shape(node)) for t in terms):
        return Left("upsample_merge", node, "the sum broadcasts")
    reader = only_reader(node)
    relu = reader if is_call(reader, "relu", "relu_") else None
    merge = "mean" if is_call(node, "mean") else "sum"
    return _match(merge, terms, nodes, ups, node, relu, [weight for _, weight in weights])


def _subtracted(node: Node) -> Left | None:
    found = call(node, "add", "add_", "sub")
    if found is None or not any(isinstance(upsampling(m), Upsampling) for m in (found.input, found.other)):
        return None
    if not (is_map(found.input) and is_map(found.other)):
        return None
    return Left("upsample_merge", node, "a resized map is subtracted, or weighed by alpha")


def concats(node: Node, order: Order) -> Match | Left | None:
    """``cat([a, interpolate(b), ...], 1)``."""
    joined = concat(node)
    if joined is None:
        return _left(node)
    if concat(only_reader(node)) is not None:
        return None
    maps, nodes = joined
    ups, reason = resized(maps, nodes)
    if not ups:
        return None if reason is None else Left("upsample_merge", node, reason)
    return _match("concat", maps, nodes, ups, node, None)


def _left(node: Node) -> Left | None:
    """Why maps that are put together in another way are left."""
    stack, assigned = _stack(node), call(node, "setitem")
    if stack is not None and _operands(only_reader(node)) is None:
        if any(isinstance(upsampling(m), Upsampling) for m in stack.tensors):
            return Left("upsample_merge", node, "resized maps are stacked, and no sum or mean is all that reads them")
    if assigned is not None and isinstance(upsampling(assigned.value), Upsampling):
        return Left("upsample_merge", node, "a resized map is written into a part of another tensor")
    return None


def _match(
    merge: str,
    maps: list[Node],
    nodes: list[Node],
    ups: dict[Node, Any],
    node: Node,
    relu: Node | None,
    weights: list[Any] | None = None,
) -> Match | Left:
    kinds = {up.kind for up in ups.values()}
    if len(kinds) > 1:
        return Left("upsample_merge", node, "the maps are resized in several modes")
    if len(maps) < 2:
        return Left("upsample_merge", node, "one map alone is resized")
    sources = [ups[m].source if m in ups else m for m in maps]
    args = (sources, meeting(maps, ups), *kinds.pop(), merge, relu is not None, weights)
    gone = [*nodes, *(n for up in ups.values() for n in up.nodes), *([relu] if relu is not None else [])]
    return Match("upsample_merge", gone, [relu or node], functions.merged, args, detail=f"{merge} of {len(maps)} maps")


def _stack(node: Any) -> Call | None:
    """``node`` as a stack of maps."""
    found = call(node, "stack")
    maps = found is not None and isinstance(found.tensors, list | tuple) and all(map(is_map, found.tensors))
    return found if maps else None


def _operands(node: Any) -> tuple[list[Any], list[Node]] | None:
    """The maps that ``node`` itself sums, or averages, and its nodes."""
    found = call(node, "add", "add_", "sum", "mean")
    if found is None or not is_map(node):
        return None
    if found.name in ("add", "add_"):
        plain = found.alpha == 1 and is_map(found.input) and is_map(found.other)
        return ([found.input, found.other], [node]) if plain else None
    stack = _stack(found.input)
    if stack is None or only_reader(stack.node) is None:
        return None
    over = dims(found) == [stack.dim % 5] and not found.keepdim and found.dtype is None
    return (list(stack.tensors), [found.node, stack.node]) if over else None


def _is_inner(node: Node) -> bool:
    """Whether another sum takes the terms of ``node`` as its own."""
    reader = only_reader(node)
    if is_call(reader, "stack"):
        reader = only_reader(reader)  # type: ignore[arg-type]
    return _operands(reader) is not None and not is_call(node, "mean")


def _terms(node: Node) -> tuple[list[Node], list[Node]]:
    """What is summed, and the nodes that do it, ``node`` first."""
    terms: list[Node] = []
    operands, nodes = _operands(node) or ([], [])
    readers = list(nodes)
    for t in operands:
        if not is_call(t, "mean") and _operands(t) is not None and only_reader(t) in readers:
            inner = _terms(t)
            terms += inner[0]
            nodes += inner[1]
        else:
            terms.append(t)
    return terms, nodes


def _weighed(term: Node, readers: list[Node]) -> tuple[Node, Any]:
    """(map, weight) of a resized map times one number, which resizing may follow as well as precede."""
    product = call(term, "mul")
    if product is None or only_reader(term) not in readers:
        return term, None
    for m, weight in ((product.input, product.other), (product.other, product.input)):
        factor = value(weight)
        single = factor.dim() == 0 if is_tensor(weight) else isinstance(factor, int | float | SymInt | SymFloat)
        if single and only_reader(m) is term and isinstance(upsampling(m), Upsampling):
            return m, weight
    return term, None
