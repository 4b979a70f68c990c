"""Resized maps summed, or concatenated for a reader that is no convolution."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from .. import functions
from ..match import Left, Match
from ..order import Order
from ..view import call, is_call, is_map, only_reader, same, shape
from .common import concat
from .resample import meeting, resized


def sums(node: Node, order: Order) -> Match | Left | None:
    """``a + interpolate(b) + ...``, from the last addition on, and a ReLU behind it."""
    if not _is_sum(node) or _is_sum(only_reader(node)):
        return None
    terms, nodes = _terms(node)
    ups, reason = resized(terms, nodes)
    if not ups:
        return None if reason is None else Left("upsample_merge", node, reason)
    if not all(same(shape(t), shape(node)) for t in terms):
        return Left("upsample_merge", node, "the sum broadcasts")
    reader = only_reader(node)
    relu = reader if is_call(reader, "relu", "relu_") else None
    return _match("sum", terms, nodes, ups, node, relu)


def concats(node: Node, order: Order) -> Match | Left | None:
    """``cat([a, interpolate(b), ...], 1)``."""
    joined = concat(node)
    if joined is None or concat(only_reader(node)) is not None:
        return None
    maps, nodes = joined
    ups, reason = resized(maps, nodes)
    if not ups:
        return None if reason is None else Left("upsample_merge", node, reason)
    return _match("concat", maps, nodes, ups, node, None)


def _match(
    merge: str, maps: list[Node], nodes: list[Node], ups: dict[Node, Any], node: Node, relu: Node | None
) -> Match | Left:
    kinds = {up.kind for up in ups.values()}
    if len(kinds) > 1:
        return Left("upsample_merge", node, "the maps are resized in several modes")
    if len(maps) < 2:
        return Left("upsample_merge", node, "one map alone is resized")
    sources = [ups[m].source if m in ups else m for m in maps]
    args = (sources, meeting(maps, ups), *kinds.pop(), merge, relu is not None)
    gone = [*nodes, *ups, *([relu] if relu is not None else [])]
    return Match("upsample_merge", gone, [relu or node], functions.merged, args, detail=f"{merge} of {len(maps)} maps")


def _is_sum(node: Any) -> bool:
    found = call(node, "add", "add_")
    return found is not None and is_map(node) and found.alpha == 1 and is_map(found.input) and is_map(found.other)


def _terms(node: Node) -> tuple[list[Node], list[Node]]:
    """What is summed, and the additions, ``node`` first."""
    found: Any = call(node)
    terms: list[Node] = []
    nodes = [node]
    for t in (found.input, found.other):
        if _is_sum(t) and only_reader(t) is node:
            inner = _terms(t)
            terms += inner[0]
            nodes += inner[1]
        else:
            terms.append(t)
    return terms, nodes
