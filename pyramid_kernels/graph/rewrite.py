"""Search a graph, prove every match, and put one call in the place of its nodes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from .. import backends
from ..backends import Backend
from ..nn.base import Fused
from . import functions, proof
from .match import Left, Match, Pattern
from .order import Order, mutated, storages
from .patterns import PATTERNS, hints
from .patterns.common import is_dilated
from .report import Rewrite
from .view import call, in_module_of, is_call, is_tensor, origin, smallest_module, value

#: Readers to which it is all the same how the channels they read lie in memory: what they make has its own strides.
_INDIFFERENT = ("cat", "conv", "max_pool", "adaptive_pool", "interpolate", "batch_norm")


def rewrite(module: GraphModule, backend: Backend = "auto") -> list[Rewrite]:
    """Rewrite ``module`` in place, nested graphs too; a line for every pyramid that was replaced or left."""
    entries = [e for child in module.children() if isinstance(child, GraphModule) for e in rewrite(child, backend)]
    before = Graph()
    before.output(before.graph_copy(module.graph, {}))
    try:
        entries += _rewritten(module.graph, backend)
        module.graph.lint()
        module.recompile()
    except Exception as error:  # whatever goes wrong here must not keep a model from running
        module.graph = before
        return [Rewrite("graph", "", "", False, f"rewriting it failed: {_text(error)}")]
    return entries


def graph_break(module: GraphModule) -> Rewrite | None:
    """The line of where Dynamo ended the graph ``module`` early."""
    reason = getattr(module, "compile_subgraph_reason", None)
    if reason is None or not reason.graph_break:
        return None
    frame = reason.user_stack[-1]
    what = reason.reason.partition("\n")[0]
    detail = f"the graph breaks here, and patterns do not see across: {what}"
    return Rewrite("graph break", f"{frame.filename}:{frame.lineno}", (frame.line or "").strip(), False, detail)


def has_parts(graph: Graph) -> bool:
    """Whether a graph still holds what pyramids are made of."""
    return any(is_call(node, "interpolate", "adaptive_pool") or is_dilated(node) for node in graph.nodes)


def _rewritten(graph: Graph, backend: Backend) -> list[Rewrite]:
    order = Order(graph)
    found: list[tuple[Rewrite, Sequence[Node]]] = []
    for pattern in (*PATTERNS, hints):
        told = {n for _, nodes in found for n in nodes} if pattern is hints else set()
        for node in list(graph.nodes):
            if node._erased or in_module_of(node, Fused) or node in told:  # a Fused's own forward runs the ops
                continue
            if (line := _consider(pattern, node, order, backend)) is not None:
                found.append(line)
    _join_slices(graph)
    # What one pattern left another may have taken.
    return [line for line, nodes in found if line.fused or not nodes[0]._erased]


def _consider(pattern: Pattern, node: Node, order: Order, backend: Backend) -> tuple[Rewrite, Sequence[Node]] | None:
    """The line of what ``pattern`` finds at ``node``, replaced or left, and the nodes that it speaks of."""
    try:
        found = pattern(node, order)
        if isinstance(found, Left):
            return _line(found.op, [found.node], False, found.reason)
        if found is None:
            return None
        outcome = why_not(found, order) or proof.prove(found, order, backend)
    except Exception as error:  # a peculiar subgraph is left to PyTorch
        return _line(getattr(pattern, "__name__", ""), [node], False, f"checking it failed: {_text(error)}")
    if isinstance(outcome, str):
        return _line(found.op, found.nodes, False, outcome, found)
    ran = ", ".join(f"{op}: {chosen}" for op, chosen in outcome.ran)
    line = _line(found.op, found.nodes, True, ran, found)
    if backends.automatic(backend) and {chosen for _, chosen in outcome.ran} == {"composed"}:
        backend = "composed"  # chosen for this graph's compiler, which the call itself does not know
    _replace(found, order, backend, outcome)
    return line


def _line(
    op: str, nodes: Sequence[Node], fused: bool, detail: str, match: Match | None = None
) -> tuple[Rewrite, Sequence[Node]]:
    where = origin(match.outputs[-1] if match else nodes[0])
    return Rewrite(op, *where, fused, detail, match.detail if match else "", smallest_module(nodes)), nodes


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def why_not(match: Match, order: Order) -> str | None:
    """Why the nodes of ``match`` cannot be one call; None if nothing outside would notice."""
    gone, outputs = set(match.nodes), set(match.outputs)
    for node in gone - outputs:
        if any(user not in gone for user in node.users):
            return f"{node.name} is read elsewhere as well"
    place = _place(match, order)
    if len({order.region[node] for node in (*gone, place)}) > 1:
        return "autocast, no_grad or inference mode begins or ends inside it"
    at = order.position[place]
    inputs = match.inputs
    if late := next((n for n in inputs if order.position[n] >= at), None):
        return f"one of its results is read before {late.name} is there"
    for node in (*inputs, *gone):
        reads = [order.position[user] for user in node.users if user in gone]
        reads.append(order.position[node] if node in gone else at)
        if writer := order.written(node, min(reads), max(reads), gone):
            return f"{node.name} is written in place by {writer.name} before its last use"
    return _why_not_writes(match, order, inputs, at)


def _why_not_writes(match: Match, order: Order, inputs: list[Node], at: float) -> str | None:
    """Why what the nodes of ``match`` write in place cannot be left out."""
    gone = set(match.nodes)
    held = {key for node in inputs for key in storages(node)}
    for writer, key in order.writes:
        if writer not in gone or key not in held:
            continue
        if is_call(writer, "batch_norm"):  # its running statistics, which the new call updates as well
            others = [n for n in order.readers_after(key, order.position[writer]) if n not in gone]
            if any(order.position[n] < at for n in others):
                return "running statistics are read before the last branch"
            continue
        if key in order.graph_inputs:
            return f"{writer.name} writes in place to an input of the graph"
        sources = [node for node in inputs if key in storages(node)]
        if len(sources) > 1 or any(order.position[user] > order.position[writer] for user in sources[0].users):
            return f"what {writer.name} writes in place is read by another name as well"
        derived = set(match.outputs)
        for reader in order.readers_after(key, order.position[writer]):
            if reader in gone:
                continue
            if not derived.issuperset(n for n in reader.all_input_nodes if key in storages(n)):
                return f"what {writer.name} writes in place is read by another name as well"
            derived.add(reader)
    return None


def _place(match: Match, order: Order) -> Node:
    """The node in front of which the call goes: the last output, or who reads an output before that."""
    gone = set(match.nodes)
    readers = [user for output in match.outputs for user in output.users if user not in gone]
    last = max(match.outputs, key=order.position.__getitem__)
    return min((last, *readers), key=order.position.__getitem__)


def _replace(match: Match, order: Order, backend: Backend, outcome: proof.Proved) -> None:
    graph, place = match.outputs[0].graph, _place(match, order)

    def put(function: Any, args: tuple[Any, ...], like: Node, example: Any) -> Node:
        node = graph.call_function(function, args)
        key = "val" if "val" in like.meta else "example_value"
        node.meta = {k: v for k, v in like.meta.items() if k != "tensor_meta"} | {key: example}
        order.replaced(place, node)
        order.position[node] -= 0.5  # before it
        return node

    with graph.inserting_before(place):
        values = [value(output) for output in match.outputs]
        first = match.outputs[0]
        if match.concat:
            whole = put(match.function, (*match.args, backend), first, _side_by_side(values))
            widths = [v.shape[1] for v in values]
            starts = [sum(widths[:i]) for i in range(len(widths))]
            new = [
                put(functions.slice_of, (whole, start, width), output, value(output))
                for output, start, width in zip(match.outputs, starts, widths, strict=True)
            ]
        elif len(values) > 1:
            whole = put(match.function, (*match.args, backend), first, tuple(values))
            new = [put(operator.getitem, (whole, i), output, value(output)) for i, output in enumerate(match.outputs)]
        else:
            new = [put(match.function, (*match.args, backend), first, values[0])]
        # Outputs that share memory are views, which nobody may write to.
        copied = outcome.restrided
        if len(values) > 1:
            copied = [not all(_is_indifferent(user) for user in output.users) for output in match.outputs]
        new = [
            put(functions.formatted, (node, last), output, value(output)) if copy else node
            for node, output, copy, last in zip(new, match.outputs, copied, outcome.channels_last, strict=True)
        ]
    for output, node in zip(match.outputs, new, strict=True):
        output.replace_all_uses_with(node)
    _erase(match, order)


def _side_by_side(values: list[Any]) -> Any:
    with values[0].fake_mode:
        return torch.cat(values, 1)


def _is_indifferent(reader: Node) -> bool:
    return is_call(reader, *_INDIFFERENT) or getattr(reader.target, "__module__", "") == functions.__name__


def _erase(match: Match, order: Order) -> None:
    """Take the matched nodes out, and the sizes that only they asked for."""
    graph = match.outputs[0].graph
    asked = {n for node in match.nodes for n in node.all_input_nodes}
    for node in sorted(match.nodes, key=order.position.__getitem__, reverse=True):
        graph.erase_node(node)
    todo = [n for n in asked if n not in match.nodes]
    while todo:
        node = todo.pop()
        idle = not node._erased and not node.users and node.op in ("call_function", "call_method")
        if idle and not mutated(node) and not is_tensor(node):
            todo += node.all_input_nodes
            graph.erase_node(node)


def _join_slices(graph: Graph) -> None:
    """Where slices of one tensor meet again in their order, take the tensor."""
    for node in list(graph.nodes):
        if _joins_channels(node):
            maps: Any = node.args[0]
            joined = _joined(list(maps))
            if len(joined) < len(maps):
                _take(node, joined, maps)
    for node in reversed(graph.nodes):
        if node.target is functions.slice_of and not node.users:
            graph.erase_node(node)


def _joins_channels(node: Node) -> bool:
    """Whether ``node`` lays the maps of its first argument side by side over channels, and does no more to them."""
    if (cat := call(node, "cat")) is not None:
        return bool(node.args) and is_tensor(node) and cat.dim in (1, 1 - value(node).dim())
    if node.target is functions.merged:
        return node.args[4] == "concat"
    return node.target is functions.with_image or (node.target is functions.mixed and node.args[3] is None)


def _joined(maps: list[Any]) -> list[Any]:
    """``maps`` with every whole run of slices in place of which their tensor can stand."""
    joined: list[Any] = []
    i = 0
    while i < len(maps):
        run = _run(maps[i:])
        joined.append(maps[i].args[0] if run else maps[i])
        i += max(run, 1)
    return joined


def _run(maps: list[Any]) -> int:
    """How many of the first maps are together all channels of one tensor; 0 if they are not."""
    if maps[0].target is not functions.slice_of or not is_tensor(maps[0].args[0]):
        return 0
    whole, end = maps[0].args[0], 0
    for count, m in enumerate(maps, 1):
        if m.target is not functions.slice_of or m.args[0] is not whole or m.args[1] != end:
            return 0
        end += m.args[2]
        if end == value(whole).shape[1]:
            return count
    return 0


def _take(node: Node, joined: list[Any], maps: Any) -> None:
    """Give ``node`` the joined maps; a concat of one map is that map where nothing else reads or writes it."""
    if is_call(node, "cat") and len(joined) == 1:
        alone = all(user is node for m in maps for user in m.users)
        if alone and len(joined[0].users) == len(maps):
            node.replace_all_uses_with(joined[0])
            joined[0].meta = dict(node.meta)
            node.graph.erase_node(node)
            return
    if node.target in (functions.mixed, functions.merged):
        place = 1 if node.target is functions.merged else 4
        size: Any = node.args[place]
        if size.like is not None:
            kept = maps[size.like] if maps[size.like] in joined else maps[size.like].args[0]
            node.update_arg(place, size._replace(like=joined.index(kept)))
    node.update_arg(0, joined)
