"""Convolutions of one map at several rates, with the norms and ReLUs behind them."""

from __future__ import annotations

from torch.fx import Node

from .. import functions
from ..match import Left, Match
from ..order import Order
from ..view import call, is_call, is_map, only_reader, shape
from .common import Unit, convolution, is_dilated, padded, unit


def branches(node: Node, order: Order) -> Match | Left | None:
    """Two and more same-padded convolutions of ``node``, one dilated at least, those of one kind together."""
    if not is_map(node):
        return None
    readers = [only_reader(reader) if is_call(reader, "pad") else reader for reader in node.users]
    convs = [conv for reader in readers if (conv := convolution(reader)) is not None and conv.input is node]
    if not any(conv.dilation > 1 for conv in convs):
        return _left(node)
    kinds: dict[object, list[Unit]] = {}
    for conv in convs:
        found = unit(conv)
        of_the_batch = found.norm is not None and found.norm.mean is None and not found.trained
        if not of_the_batch:
            key = found.norm is None, found.trained, found.relu is None, order.region[conv.node]
            kinds.setdefault(key, []).append(found)
    units = max(kinds.values(), key=len, default=[])
    if len(units) < 2:
        if sum(conv.dilation > 1 for conv in convs) < 2:
            return None
        return Left("dilated_branches", convs[0].node, "norms, ReLUs or modes around the branches are of several kinds")
    units.sort(key=lambda u: order.position[u.last])
    weights, dilations = [u.conv.weight for u in units], [u.conv.dilation for u in units]
    relu = units[0].relu is not None
    gone = [n for u in units for n in u.nodes]
    outputs = [u.last for u in units]
    detail = f"rates {dilations}"
    if units[0].trained:
        args = (node, weights, dilations, [u.batch_norm() for u in units], relu)
        return Match(
            "dilated_branches_train", gone, outputs, functions.branches_train, args, detail=detail, concat=True
        )
    norms = [u.batch_norm() for u in units] if units[0].norm is not None else None
    args_ = (node, weights, dilations, [u.conv.bias for u in units], norms, relu)
    return Match("dilated_branches", gone, outputs, functions.branches, args_, detail=detail, concat=True)


def _left(node: Node) -> Left | None:
    """Why branches of several rates are left: what the ops do not compute."""
    pads = {reader: only_reader(reader) for reader in node.users if is_call(reader, "pad")}
    readers = [pads.get(reader, reader) for reader in node.users]
    found = [c for reader in readers if (c := call(reader, "conv")) is not None and is_map(reader)]
    found = [c for c in found if c.input is node or c.input in pads]
    dilated = [c for c in found if is_dilated(c.node)]
    if len(found) < 2 or not dilated:
        return None
    if any(c.groups != 1 for c in dilated):
        return Left("dilated_branches", dilated[0].node, "the branches are depthwise or grouped")
    if any(c.input in pads for c in dilated):
        return Left("dilated_branches", dilated[0].node, "the branches are padded by hand, and not with their zeros")
    if not all(padded(c, shape(c.weight)[2]) for c in dilated):
        return Left("dilated_branches", dilated[0].node, "the branches change the size of the map")
    return Left("dilated_branches", dilated[0].node, "the branches are no plain 3x3 convolutions of stride 1")
