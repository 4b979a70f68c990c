"""What was done with every pyramid of a graph, by the line of the user's own code that it came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

#: What the patterns know, for a report that has nothing to tell.
LOOKED_FOR = (
    "dilated branches, resized maps in front of a convolution, a sum or a concat, adaptive pools, stride-1 max pools, "
    "channel gates, losses and labels of upsampled logits"
)
#: Why a pyramid is left in training that is taken in evaluation.
TRAINING = "its norm takes the statistics of the batch"


@dataclass(frozen=True)
class Rewrite:
    """One subgraph: its op, where it is written ("file:line" and that line), whether it runs the op, or why not.

    ``detail``: the backends of its ops, or the reason. ``module``: the path of the smallest module that holds it.
    """

    op: str
    where: str
    code: str
    fused: bool
    detail: str
    shape: str = ""
    module: str = ""


@dataclass
class GraphReport:
    """Every pyramid of the graphs compiled so far; it grows with every compilation. Printing it gives a table."""

    graphs: dict[object, list[Rewrite]] = field(default_factory=dict)
    #: Where graphs ended early, and whether parts of what may be pyramids are left in some.
    breaks: dict[Rewrite, None] = field(default_factory=dict)
    parts: bool = False

    @property
    def entries(self) -> list[Rewrite]:
        lines = [e for entries in self.graphs.values() for e in entries]
        return [*lines, *self.breaks] if self.parts else lines

    @property
    def fused(self) -> list[Rewrite]:
        return [e for e in self.entries if e.fused]

    @property
    def left(self) -> list[Rewrite]:
        return [e for e in self.entries if not e.fused]

    def __str__(self) -> str:
        if not self.graphs:
            return "nothing compiled yet: the report is filled at the first call"
        if not self.entries:
            return f"no pyramid found; looked for {LOOKED_FOR}"
        return table(self.entries)


#: Forwards that Dynamo has given up, which it does once a process, and why.
_given_up: dict[Any, str] = {}


@contextmanager
def following(module: Any, report: GraphReport) -> Iterator[None]:
    """A line where Dynamo gives a forward up in a call: it would break the graph there, and cannot resume behind."""
    from torch._dynamo.utils import counters

    def not_followed() -> int:
        return int(counters["frames"]["total"] - counters["frames"]["ok"])

    reasons, frames, graphs = dict(counters["graph_break"]), not_followed(), {id(g) for g in report.graphs.values()}
    yield
    forward = type(module).forward
    found = any(lines for lines in report.graphs.values() if id(lines) not in graphs)
    broken = [r.partition("\n")[0] for r, count in counters["graph_break"].items() if count > reasons.get(r, 0)]
    broken = [reason for reason in broken if not any(line.detail.endswith(reason) for line in report.breaks)]
    if found:
        _given_up.pop(forward, None)
    elif broken and not_followed() > frames:
        _given_up[forward] = broken[0]
    if forward in _given_up:
        detail = f"Dynamo gives up a forward in {type(module).__name__}, which runs as it is: {_given_up[forward]}"
        report.graphs.setdefault(forward, [Rewrite("graph break", "", "", False, detail)])


def table(entries: Sequence[Rewrite]) -> str:
    """Two lines a pyramid: what runs, and the user's own line."""
    lines: list[str] = []
    for e, count in Counter(replace(e, module="") for e in entries).items():
        times = f" x {count}" if count > 1 else ""
        lines.append(f"{'fused' if e.fused else 'left'}  {e.op}{f' ({e.shape})' if e.shape else ''}{times}: {e.detail}")
        lines.append(f"       {e.where or '(no source line)'}  {e.code}".rstrip())
    return "\n".join(lines)
