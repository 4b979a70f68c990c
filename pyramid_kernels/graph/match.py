"""What a pattern says of a graph: a match to replace, or a pyramid that it leaves, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node
from torch.fx.node import map_arg

from .order import Order


@dataclass(frozen=True)
class Match:
    """A subgraph that one call can stand for.

    ``function(*args, backend)`` gives the value of the one node of ``outputs``, or a tuple with that of
    each. ``nodes`` are all that goes, outputs included, in any order. Args may hold nodes; those are its inputs.
    """

    op: str
    nodes: Sequence[Node]
    outputs: Sequence[Node]
    function: Callable[..., Any]
    args: tuple[Any, ...]
    detail: str = ""
    #: The function gives the outputs side by side in one tensor.
    concat: bool = False

    @property
    def inputs(self) -> list[Node]:
        """What its nodes, and its call, read from outside."""
        found: dict[Node, None] = {}
        for node in self.nodes:
            map_arg((node.args, node.kwargs), found.setdefault)
        map_arg(self.args, found.setdefault)
        gone = set(self.nodes)
        return [node for node in found if node not in gone]


@dataclass(frozen=True)
class Left:
    """A pyramid at ``node`` that stays as it is."""

    op: str
    node: Node
    reason: str


#: A pattern looks at one node, where its subgraph ends or begins.
Pattern = Callable[[Node, Order], Match | Left | None]
