"""What looks like a pyramid, and no pattern has a word on: it ends in another way."""

from __future__ import annotations

import itertools
from typing import Any

from torch.fx import Node

from ..match import Left
from ..order import Order
from ..view import is_call, is_map, is_tensor, same, shape
from .gate import factors
from .max_pools import pool
from .resizes import Upsampling, upsampling

#: How far from a product the map may be that its gate is made of.
_FAR = 32


def hints(node: Node, order: Order) -> Left | None:
    """A gate of another kind, a resized map that meets another in another way, max pools that do not meet."""
    return _gated(node) or _met(node) or _unjoined(node)


def _gated(node: Node) -> Left | None:
    """A map times one number for every channel, which layers make of the map itself."""
    for x, weights in itertools.permutations(factors(node), 2):
        if is_call(weights, "expand"):
            weights = weights.args[0]
        pixel = is_map(weights) and all(s == 1 for s in shape(weights)[2:])
        if pixel and is_map(x) and any(s != 1 for s in shape(x)[2:]):
            made_of = _behind(weights, x)
            if x in made_of and any(
                "conv" in str(n.target) or "linear" in str(n.target) for n in made_of if n is not x
            ):
                return Left("channel_gate", node, "its gate is no sigmoid of one or two layers on the means of the map")
    return None


def _behind(node: Node, end: Node) -> list[Node]:
    """The tensors that ``node`` is made of, itself and ``end`` included, as far as one looks."""
    found = [node]
    for at in found:
        if at is not end and len(found) < _FAR:
            found += [n for n in at.all_input_nodes if is_tensor(n) and n not in found]
    return found


def _met(node: Node) -> Left | None:
    """A map resized to the size of another one that ``node`` reads as well, but in no way that the ops have."""
    maps = [m for m in node.all_input_nodes if is_map(m)] if is_map(node) else []
    for m in maps:
        if not any(same(shape(m)[2:], shape(other)[2:]) for other in maps if other is not m):
            continue
        last, source = m, _changed(m)
        while source is not None:
            m, source = source, _changed(source)
        if not isinstance(found := upsampling(m), Upsampling) or is_call(found.nodes[-1], "expand", "repeat"):
            continue
        merges = is_call(node, "add", "add_", "sub", "cat", "stack")
        if merges and m is not last:
            return Left("upsample_merge", node, f"{last.name} stands between a resized map and {node.name}")
        if not merges and m is last:
            return Left(
                "upsample_merge", node, f"{node.name} reads a resized map, and is no sum, concat or convolution"
            )
    return None


def _changed(node: Any) -> Any:
    """The map that ``node`` alone is made of, value by value; None where it is no such node, or a resize."""
    sources = [n for n in node.all_input_nodes if is_map(n) and same(shape(n), shape(node))]
    alone = len(sources) == 1 and not is_call(node, "conv", "batch_norm")
    return sources[0] if alone and upsampling(node) is None else None


def _unjoined(node: Node) -> Left | None:
    """Two and more max pools of stride 1 of ``node``."""
    pools = [reader for reader in node.users if (found := pool(reader)) is not None and found[0] is node]
    if len(pools) < 2 or any(is_call(reader, "cat", "sub") for p in pools for reader in p.users):
        return None
    return Left("max_pool_pyramid", pools[0], "its max pools are not concatenated")
