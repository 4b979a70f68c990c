"""Logits upsampled for a loss or for labels: neither needs a map of that size."""

from __future__ import annotations

from torch.fx import Node

from .. import functions
from ..match import Left, Match
from ..order import Order
from ..view import call, number, only_reader, same, shape, value
from .common import upsampling

#: What ATen's operators number.
_REDUCTIONS = {0: "none", 1: "mean", 2: "sum"}


def loss(node: Node, order: Order) -> Match | Left | None:
    """``cross_entropy(interpolate(logits), target)``."""
    found = call(node, "cross_entropy")
    up = upsampling(found.input) if found is not None and only_reader(found.input) is node else None
    if found is None or up is None:
        return None
    if isinstance(up, str):
        return Left("upsample_cross_entropy", node, up)
    target = value(found.target)
    if up.mode != "bilinear":
        return Left("upsample_cross_entropy", node, f"the logits are upsampled by mode={up.mode!r}")
    if target.is_floating_point() or target.dim() != 3 or not same(target.shape[1:], shape(found.input)[2:]):
        return Left("upsample_cross_entropy", node, "the target is no map of labels of the upsampled size")
    if found.arguments.get("reduce") is not None or found.arguments.get("size_average") is not None:
        return Left("upsample_cross_entropy", node, "the loss is asked for by reduce or size_average")
    args = (up.source, found.target, up.align_corners, found.weight, found.ignore_index,
            float(number(found.label_smoothing)), _REDUCTIONS.get(found.reduction, found.reduction))  # fmt: skip
    return Match("upsample_cross_entropy", [found.input, node], [node], functions.loss, args)


def labels(node: Node, order: Order) -> Match | Left | None:
    """``interpolate(logits).argmax(1)``, or the indices of ``.max(1)``."""
    nodes = [node]
    found = call(node, "argmax")
    if found is None:
        index = call(node, "getitem")
        found = call(index.input, "max") if index is not None and index.index == 1 else None
        if found is None or any(reader.users for reader in found.node.users if reader is not node):
            return None
        nodes += [found.node, *(reader for reader in found.node.users if reader is not node)]
    up = upsampling(found.input) if only_reader(found.input) is found.node else None
    if up is None or number(found.dim) not in (1, -3):
        return None
    if isinstance(up, str):
        return Left("upsample_argmax", node, up)
    if up.mode != "bilinear":
        return Left("upsample_argmax", node, f"the logits are upsampled by mode={up.mode!r}")
    args = (up.source, up.size, up.align_corners, bool(found.keepdim))
    return Match("upsample_argmax", [found.input, *nodes], [node], functions.labels, args)
