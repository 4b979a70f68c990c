"""Stride-1 max pools, side by side or one behind the other, concatenated with what they pool."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from .. import functions
from ..match import Left, Match
from ..order import Order
from ..view import call, is_map, pair, same, shape
from .common import concat


def max_pools(node: Node, order: Order) -> Match | Left | None:
    """``cat([x, pool(x), ...])`` or ``cat([x, pool(x), pool(pool(x)), ...])``, the parts in any order."""
    joined = concat(node)
    if joined is None:
        return None
    maps, nodes = joined
    pools = {m: found for m in maps if (found := pool(m)) is not None}
    pooled = {source for source, _ in pools.values()}
    sources = [m for m in maps if m not in pools and m in pooled]
    if len(pools) < 2 or not sources:
        alone = len(pools) > 1 and len(pooled) == 1
        return Left("max_pool_pyramid", node, "the map itself is not concatenated with its pools") if alone else None
    x = sources[0]
    if odd := next((window for _, window in pools.values() if isinstance(window, str)), None):
        return Left("max_pool_pyramid", node, odd)
    if len(sources) > 1 or len(set(maps)) < len(maps) or len(maps) != len(pools) + 1:
        return Left("max_pool_pyramid", node, "other maps are concatenated with the pools")
    if all(source is x for source, _ in pools.values()):
        cascade = False
        ordered = sorted(pools, key=lambda m: pools[m][1])
    else:
        cascade = True
        ordered = _chain(x, pools)
        if len(ordered) < len(pools):
            return Left("max_pool_pyramid", node, "the pools are neither side by side nor one chain")
    sizes = [pools[m][1] for m in ordered]
    if len(set(sizes)) != (1 if cascade else len(sizes)):
        return Left("max_pool_pyramid", node, f"windows of {sizes} in {'a cascade' if cascade else 'parallel'}")
    places = [0 if m is x else 1 + ordered.index(m) for m in maps]
    args = (x, sizes, cascade, None if places == sorted(places) else places)
    detail = f"windows {sizes}{' in a cascade' if cascade else ''}"
    return Match("max_pool_pyramid", [*nodes, *pools], [node], functions.max_pools, args, detail=detail)


def pool(node: Node) -> tuple[Node, int | str] | None:
    """(source, window) of a max pool of stride 1 that keeps the size; why the op has none such, for its window."""
    cut = call(node, "getitem")
    found = call(node if cut is None else cut.input, "max_pool")
    if found is None or not is_map(found.node) or not is_map(node) or not is_map(found.input):
        return None
    rows, columns = pair(found.kernel_size)
    if pair(found.stride or found.kernel_size) != (1, 1):
        return None
    half = rows // 2, rows // 2  # with stride 1, ceil_mode changes nothing
    plain = rows == columns and rows % 2 and pair(found.padding) == half and pair(found.dilation) == (1, 1)
    if plain and cut is None:
        return found.input, rows
    pad = call(found.input, "pad")
    given: list[Any] = [found.input, *([pad.input] if pad is not None else [])]
    kept = [x for x in given if is_map(x) and same(shape(x), shape(node))]
    return (kept[0], f"a window of {rows}x{columns} is even, oblong, dilated or padded by hand") if kept else None


def _chain(x: Node, pools: dict[Node, tuple[Node, Any]]) -> list[Node]:
    """The pools in the order in which each takes the one before."""
    chain, last = [], x
    while len(following := [m for m, (source, _) in pools.items() if source is last]) == 1:
        last = following[0]
        chain.append(last)
    return chain
