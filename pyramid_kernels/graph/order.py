"""What a rewrite must not disturb: the order of nodes, the regions they stand in, and writes to tensors in place."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, Node

from .view import call, is_tensor, number, value

#: Operators of Python that write to their first argument.
_ASSIGNING = {getattr(operator, f"i{name}") for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow",
              "and", "or", "xor", "lshift", "rshift", "matmul", "concat")} | {operator.setitem}  # fmt: skip


class Region(NamedTuple):
    """The modes that a node runs in, beside those around the whole graph."""

    autocast: tuple[Any, ...] = ()
    grad: bool | None = None
    inference: Any = ()


class Order:
    """Positions, regions and writes of a graph's nodes; ``replaced`` keeps them true through a rewrite."""

    def __init__(self, graph: Graph) -> None:
        self.position: dict[Node, float] = {node: i for i, node in enumerate(graph.nodes)}
        self.region = _regions(graph)
        self.writes = [(node, key) for node in graph.nodes for written in mutated(node) for key in storages(written)]
        self.readers: dict[int, list[Node]] = {}
        for node in graph.nodes:
            for key in {key for source in node.all_input_nodes for key in storages(source)}:
                self.readers.setdefault(key, []).append(node)
        self.graph_inputs = {
            key for node in graph.nodes if node.op in ("placeholder", "get_attr") for key in storages(node)
        }

    def replaced(self, old: Node, new: Node) -> None:
        """``new`` stands where ``old`` stood."""
        self.position[new], self.region[new] = self.position[old], self.region[old]
        for source in new.all_input_nodes:
            for key in storages(source):
                self.readers.setdefault(key, []).append(new)

    def written(self, node: Node, first: float, last: float, but: set[Node]) -> Node | None:
        """The first node between two positions, none of ``but``, that writes to what ``node`` holds."""
        keys = set(storages(node))
        for writer, key in self.writes:
            if key in keys and writer not in but and first < self.position[writer] < last and not writer._erased:
                return writer
        return None

    def readers_after(self, key: int, position: float) -> list[Node]:
        """The nodes after ``position`` that take a tensor of this storage."""
        return [node for node in self.readers.get(key, ()) if not node._erased and self.position[node] > position]


def storages(node: Node) -> Iterator[int]:
    """Keys of the memory that the tensors of ``node`` lie in: equal where they are views of one."""
    found = value(node)
    for t in found if isinstance(found, list | tuple) else (found,):
        if isinstance(t, Tensor) and t.layout == torch.strided:
            yield t.untyped_storage()._cdata


def mutated(node: Node) -> list[Node]:
    """The inputs of ``node`` that it writes to."""
    if node.op == "call_method":
        name = str(node.target)
        written = node.args[:1] if name.endswith("_") and not name.endswith("__") else ()
    elif node.op == "call_function":
        written = tuple(_written_by_function(node))
    else:  # a nested graph, a checkpoint's body, may write to whatever it is given
        written = node.args if node.op == "call_module" else ()
    return [a for a in written if isinstance(a, Node) and is_tensor(a)]


def _written_by_function(node: Node) -> Iterator[Any]:
    target: Any = node.target
    yield from (node.kwargs["out"],) if "out" in node.kwargs else ()
    norm = call(node, "batch_norm")
    if norm is not None:
        yield from (norm.mean, norm.var) if number(norm.training) else ()
    elif isinstance(target, torch._ops.HigherOrderOperator):
        yield from node.all_input_nodes
    elif isinstance(target, torch._ops.OpOverload):
        for i, argument in enumerate(target._schema.arguments):
            if argument.is_write:
                yield node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
    elif target in _ASSIGNING:
        yield node.args[0]
    else:
        name = getattr(target, "__name__", "")
        if (name.endswith("_") and not name.endswith("__")) or _in_place(node):
            yield node.args[0] if node.args else node.kwargs.get("input")


def _in_place(node: Node) -> bool:
    """Whether a function is asked to work in place, by name or by position."""
    if "inplace" in node.kwargs:
        return bool(node.kwargs["inplace"])
    place = _place_of_inplace(node.target)
    return place is not None and place < len(node.args) and bool(node.args[place])


@functools.cache
def _place_of_inplace(function: Any) -> int | None:
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # most functions in C have no signature, and no such parameter
        names = ["input", "inplace"] if getattr(function, "__name__", "").rstrip("_") in ("hardtanh", "elu") else []
    return names.index("inplace") if "inplace" in names else None


def _regions(graph: Graph) -> dict[Node, Region]:
    found: dict[Node, Region] = {}
    autocast: list[tuple[Any, ...]] = []
    inference: list[tuple[Any, ...]] = []
    grad: bool | None = None
    for node in graph.nodes:
        name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
        if name == "_enter_autocast":
            autocast.append(tuple(node.args))
        elif name == "_exit_autocast":
            autocast.pop()
        elif name == "_enter_inference_mode":
            inference.append(tuple(node.args))
        elif name == "_exit_inference_mode":
            inference.pop()
        elif name == "_set_grad_enabled":
            grad = bool(node.args[0])
        # A recorded graph has no such nodes, and says it at each.
        found[node] = Region(*node.meta.get("region", (tuple(autocast), grad, tuple(inference))))
    return found
