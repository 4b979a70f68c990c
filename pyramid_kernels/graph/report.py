"""What was done with every pyramid of a graph, by the line of the user's own code that it came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

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


def table(entries: Sequence[Rewrite]) -> str:
    """Two lines a pyramid: what runs, and the user's own line."""
    lines: list[str] = []
    for e, count in Counter(entries).items():
        times = f" x {count}" if count > 1 else ""
        lines.append(f"{'fused' if e.fused else 'left'}  {e.op}{f' ({e.shape})' if e.shape else ''}{times}: {e.detail}")
        lines.append(f"       {e.where or '(no source line)'}  {e.code}".rstrip())
    return "\n".join(lines)
