"""Logits upsampled for a loss or for labels: neither needs a map of that size."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from .. import functions
from ..functions import Size
from ..match import Left, Match
from ..order import Order
from ..view import call, number, same, shape, value
from .resizes import Upsampling, unchanged, upsampling

#: What ATen's operators number.
_REDUCTIONS = {0: "none", 1: "mean", 2: "sum"}


def loss(node: Node, order: Order) -> Match | Left | None:
    """``cross_entropy(interpolate(logits), target)``, or the ``nll_loss`` of its ``log_softmax``."""
    found = call(node, "cross_entropy", "nll_loss")
    if found is None:
        return None
    logits, nodes = found.input, [node]
    if found.name == "nll_loss":
        logits, nodes = _under(found.input, "log_softmax"), [found.input, node]
    up = _upsampled(logits)
    if up is None:
        return None
    if isinstance(up, str):
        return Left("upsample_cross_entropy", node, up)
    target = value(found.target)
    if target.is_floating_point() or target.dim() != 3 or not same(target.shape[1:], shape(logits)[2:]):
        return Left("upsample_cross_entropy", node, "the target is no map of labels of the upsampled size")
    if found.arguments.get("reduce") is not None or found.arguments.get("size_average") is not None:
        return Left("upsample_cross_entropy", node, "the loss is asked for by reduce or size_average")
    smoothing = float(number(found.arguments.get("label_smoothing", 0.0)))
    args = (up.source, found.target, up.align_corners, found.weight, found.ignore_index, smoothing,
            _REDUCTIONS.get(found.reduction, found.reduction))  # fmt: skip
    return Match("upsample_cross_entropy", [*up.nodes, *nodes], [node], functions.loss, args)


def labels(node: Node, order: Order) -> Match | Left | None:
    """``interpolate(logits).argmax(1)``, or the indices of ``.max(1)``."""
    nodes = [node]
    found = call(node, "argmax")
    if found is None:
        index = call(node, "getitem")
        found = call(index.input, "max") if index is not None and index.index == 1 else None
        if found is None:
            return None
        nodes += [found.node, *(reader for reader in found.node.users if reader is not node)]
    if number(found.dim) not in (1, -3):
        return None
    squashed = _under(found.input, "softmax", "log_softmax")
    logits, passed = unchanged(found.input, "detach")
    up = _upsampled(squashed or logits)
    if up is None:
        return None
    if isinstance(up, str):
        return Left("upsample_argmax", node, up)
    if squashed is not None:
        return Left("upsample_argmax", node, "a softmax rounds close classes to one value: take the logits' own argmax")
    if any(reader.users for reader in nodes[2:]):
        return Left("upsample_argmax", node, "the largest values are read as well")
    args = (up.source, up.size, up.align_corners, bool(found.keepdim))
    return Match("upsample_argmax", [*up.nodes, *passed, *nodes], [node], functions.labels, args)


def _under(node: Any, *names: str) -> Node | None:
    """The logits whose softmax over the classes ``node`` is."""
    found = call(node, *names)
    return found.input if found is not None and number(found.dim) in (1, -3) else None


def _upsampled(logits: Any) -> Upsampling | str | None:
    """How logits are upsampled; why the ops do not do that."""
    up = upsampling(logits)
    if isinstance(up, Upsampling) and up.mode != "bilinear":
        return f"the logits are upsampled by mode={up.mode!r}"
    return None if isinstance(up, Upsampling) and up.size == Size() else up
