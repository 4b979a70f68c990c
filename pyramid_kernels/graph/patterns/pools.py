"""Averages of one map over several grids, or its maxima, with the 1x1 layers that alone read them."""

from __future__ import annotations

from torch.fx import Node

from .. import functions
from ..match import Left, Match
from ..order import Order
from ..view import call, is_map, is_tensor, number, only_reader, pair, value
from .common import Unit, convolution, pooled, unit

#: A map, the grid that it is pooled to, and the nodes that do it, the last first.
Level = tuple[Node, tuple[int, int], list[Node]]


def pools(node: Node, order: Order) -> Match | Left | None:
    """Two and more adaptive average pools of ``node`` to fixed grids."""
    levels = [found for reader in node.users if (found := pooled(reader)) is not None and found[0] is node]
    return _match(node, levels, "avg", order) or _left(node)


def maxima(node: Node, order: Order) -> Match | None:
    """Two and more adaptive max pools of ``node`` to fixed grids."""
    levels = [found for reader in node.users if (found := _largest(reader)) is not None and found[0] is node]
    return _match(node, levels, "max", order)


def _largest(node: Node) -> Level | None:
    """As ``pooled``, of the largest values alone: who reads where they lie is left."""
    found = call(node, "adaptive_max_pool")
    if found is None or found.return_indices or not is_map(found.input):
        return None
    parts = [node] if is_tensor(node) else [part for part in node.users if part.users]
    grid = pair(found.output_size)
    if len(parts) != 1 or not is_map(parts[0]) or not all(isinstance(g, int) for g in grid):
        return None
    return (
        found.input,
        grid,
        [*parts, *(user for user in node.users if not user.users), *([] if parts == [node] else [node])],
    )


def _match(node: Node, levels: list[Level], mode: str, order: Order) -> Match | None:
    levels = [level for level in levels if order.region[level[2][0]] == order.region[levels[0][2][0]]]
    if len(levels) < 2:
        return None
    levels.sort(key=lambda level: order.position[level[2][0]])
    grids = [grid for _, grid, _ in levels]
    ends = [nodes[0] for _, _, nodes in levels]
    gone = [n for _, _, nodes in levels for n in nodes]
    detail = f"bins {', '.join(f'{r}x{c}' for r, c in grids)}"
    units = _projections(ends)
    if units is None:
        return Match("pyramid_pool", gone, ends, functions.levels, (node, grids, mode), detail=detail)
    gone += [n for u in units for n in u.nodes]
    weights, biases = [u.conv.weight for u in units], [u.conv.bias for u in units]
    norms = [u.batch_norm() for u in units] if units[0].norm is not None else None
    args = (node, grids, mode, weights, biases, norms, units[0].relu is not None)
    return Match("pyramid_project", gone, [u.last for u in units], functions.projected, args, detail=detail)


def _left(node: Node) -> Left | None:
    """Why averages of several windows are left."""
    found = [c for reader in node.users if (c := call(reader, "avg_pool")) is not None and is_map(reader)]
    if len({pair(value(c.kernel_size)) for c in found}) < 2:
        return None
    return Left("pyramid_pool", found[0].node, "the windows of its averages are given, not the grids")


def _projections(ends: list[Node]) -> list[Unit] | None:
    """The 1x1 layers behind all levels, with their norms and ReLUs where all have the same kind."""
    convs = [convolution(only_reader(end)) for end in ends]
    if any(conv is None or conv.kernel != 1 or conv.input is not end for conv, end in zip(convs, ends, strict=True)):
        return None
    units = [unit(conv) for conv in convs if conv is not None]
    kinds = {(u.norm is None or u.trained or u.norm.mean is None, u.norm is None, u.relu is None) for u in units}
    if len(kinds) == 1 and not (units[0].norm is not None and _of_the_batch(units[0])):
        return units
    return [u.without_norm() for u in units]


def _of_the_batch(u: Unit) -> bool:
    return u.norm is not None and (bool(number(u.norm.training)) or u.norm.mean is None)
