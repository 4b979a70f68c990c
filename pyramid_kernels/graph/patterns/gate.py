"""A map weighed by a gate over its channels, which its own means decide."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch.fx import Node

from ...ops.channel_gate.op import HIDDEN_ACTIVATIONS
from .. import functions
from ..match import Left, Match
from ..order import Order
from ..report import TRAINING
from ..view import Call, call, is_call, is_map, is_tensor, number, only_reader, same, shape, value
from .common import batch_norm, convolution, pooled


def gate(node: Node, order: Order) -> Match | Left | None:
    """``x * sigmoid(layers(mean(x)))``, plus x or not."""
    if not is_map(node):
        return None
    for x, weights in itertools.permutations(factors(node), 2):
        if not is_map(x) or not is_tensor(weights) or not same(shape(x), shape(node)):
            continue
        found = _gate_of(x, weights, node)
        if isinstance(found, str):
            return Left("channel_gate", node, found)
        if found is not None:
            return _match(x, node, found)
    return None


def factors(node: Node) -> Sequence[Any]:
    """The factors of a product; an einsum's where one is a map and the other a vector per image."""
    product = call(node, "mul", "mul_")
    if product is not None:
        return product.input, product.other
    product = call(node, "einsum")
    if product is None or not isinstance(product.equation, str):
        return ()
    given, _, result = product.equation.replace(" ", "").partition("->")
    whole = len(set(result)) == 4 and sorted(given.split(","), key=len) == [result[:2], result]
    return product.operands if whole else ()


class _Layer(NamedTuple):
    weight: Node
    bias: Node | None
    nodes: list[Node]


class _Gate(NamedTuple):
    first: _Layer
    norm: Call | None
    activation: str | None
    second: _Layer | None
    squash: str
    added: bool  # one is added to the gate, as if the map were to the result
    nodes: list[Node]


def _match(x: Node, node: Node, found: _Gate) -> Match:
    reader = only_reader(node)
    added = call(reader, "add")
    behind = added is not None and not found.added and added.alpha == 1 and {added.input, added.other} == {x, node}
    root: Any = reader if behind else node
    second = (None, None) if found.second is None else (found.second.weight, found.second.bias)
    args = (
        x,
        found.first.weight,
        found.first.bias,
        batch_norm(found.norm),
        found.activation,
        *second,
        found.squash,
        behind or found.added,
    )
    nodes = [root, *([node] if behind else []), *found.nodes]
    return Match("channel_gate", nodes, [root], functions.gate, args)


def _gate_of(x: Node, weights: Node, root: Node) -> _Gate | str | None:
    """The gate that ends in ``weights`` and begins with the means of ``x``; a reason where it is another kind."""
    nodes: list[Node] = []
    at = _plain(weights, nodes)
    at, added = _without_one(at, nodes)
    squashed = _squashed(at)
    if squashed is None:
        return None
    squash, squashing, at = squashed
    nodes += squashing
    layers: list[_Layer] = []
    norm: Call | None = None
    acts: list[Node] = []
    while True:
        at = _plain(at, nodes)
        found = pooled(at, flat=True)
        if found is not None:
            break
        if not is_tensor(at) or len(layers) > 2:
            return None
        layer = call(at, "conv", "linear")
        behind = layer or call(at, "batch_norm")
        source = behind.input if behind is not None else next(iter(at.args), None)
        if not is_tensor(source) or (behind is None and not same(shape(source), shape(at))):
            return None
        if layer is not None:
            layers.append(_Layer(layer.weight, layer.bias, [at]))
        elif behind is not None:
            norm = behind
        else:
            acts.append(at)
        nodes.append(at)
        at = source
    source, grid, means = found
    if grid != (1, 1):
        return None
    if source is not x:
        return "its gate is made of another map than it weighs"
    if squash == "clamp":
        return "its gate is clamped, with a gradient at both ends that a hard sigmoid has not"
    reason = _why_not(layers, norm, acts)
    if reason:
        return reason
    first, second = layers[-1], layers[0] if len(layers) == 2 else None
    return _Gate(first, norm, _name(acts[0]) if acts else None, second, squash, added, [*nodes, *means])


def _without_one(node: Any, nodes: list[Node]) -> tuple[Any, bool]:
    """What one is added to, and whether there is a one, whose nodes are added to ``nodes``."""
    plus = call(node, "add")
    if plus is None or 1 not in (plus.input, plus.other):
        return node, False
    nodes.append(node)
    return _plain(plus.other if plus.input == 1 else plus.input, nodes), True


def _squashed(node: Any) -> tuple[str, list[Node], Any] | None:
    """What makes ``node`` a gate, its nodes and its input: a sigmoid, a hard one, or relu6(z + 3) / 6 as well.

    "clamp" in place of relu6 is another function where a gradient is wanted: it has one at both ends.
    """
    plain = call(node, "sigmoid", "sigmoid_", "hardsigmoid")
    if plain is not None:
        return plain.name.rstrip("_"), [node], plain.input
    sixth = call(node, "div", "div_")
    clipped = None if sixth is None else call(sixth.input, "hardtanh", "hardtanh_", "clamp", "clamp_")
    raised = None if clipped is None else call(clipped.input, "add", "add_")
    if sixth is None or clipped is None or raised is None:
        return None
    if [number(v) for v in (raised.other, clipped.min, clipped.max, sixth.other)] != [3, 0, 6, 6]:
        return None
    open_ended = clipped.name.startswith("clamp") and value(clipped.node).requires_grad
    return "clamp" if open_ended else "hardsigmoid", [node, clipped.node, raised.node], raised.input


def _name(act: Node) -> str:
    """Of an activation, in place or not."""
    known = call(act)
    return (str(getattr(act.target, "__name__", act.target)) if known is None else known.name).rstrip("_")


def _why_not(layers: list[_Layer], norm: Call | None, acts: list[Node]) -> str | None:
    for act in acts:
        if _name(act) not in HIDDEN_ACTIVATIONS:
            return f"its layers have {_name(act)} between them"
    if not 1 <= len(layers) <= 2 or len(acts) > 1:
        return f"its gate has {len(layers)} layers and {len(acts)} activations"
    for layer in layers:
        conv = call(layer.nodes[0], "conv")
        if conv is not None and convolution(layer.nodes[0]) is None:
            return "a layer of its gate is no plain convolution"
        if any(s != 1 for s in shape(layer.weight)[2:]):
            return "a layer of its gate has windows"
    if norm is not None and number(norm.training):
        return TRAINING
    # What stands between: first layer, norm, activation, second layer.
    order = [
        layers[-1].nodes[0],
        *([norm.node] if norm is not None else []),
        *acts,
        *(layer.nodes[0] for layer in layers[:-1]),
    ]
    if not _in_line(order):
        return "the layers of its gate stand in another order"
    return None


def _in_line(nodes: list[Node]) -> bool:
    """Whether each node is computed from the one before."""
    places = {node: i for i, node in enumerate(nodes)}
    for later, earlier in zip(nodes[1:], nodes, strict=False):
        at: Any = later
        while at not in places or at is later:
            at = at.args[0]
            if not isinstance(at, Node):
                return False
        if at is not earlier:
            return False
    return True


def _keeps_vectors(node: Any) -> bool:
    """Whether ``node`` may be another form of its input, [:, :, None, None] and [:, :, 0, 0] included."""
    index = call(node, "getitem")
    if index is None:
        return is_call(node, "flatten", "reshape", "expand", "squeeze", "unsqueeze")
    parts = index.index if isinstance(index.index, tuple) else (index.index,)
    return all(
        part is None or part is Ellipsis or part == slice(None) or (i > 1 and part == 0) for i, part in enumerate(parts)
    )


def _plain(node: Any, nodes: list[Node]) -> Any:
    """The node behind changes of form of one vector per image, which are added to ``nodes``."""
    while _keeps_vectors(node):
        source = node.args[0]
        if not is_tensor(source) or value(source).dim() < 2 or any(s != 1 for s in shape(source)[2:]):
            return node
        nodes.append(node)
        node = source
    return node
