"""What ``fuse_`` did with every pyramid it found."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..graph.report import LOOKED_FOR, GraphReport, Rewrite, table


class FuseError(RuntimeError):
    """Nothing could be fused under ``strict``, or the fused model gave another result than the unfused one."""


@dataclass(frozen=True)
class Entry:
    """One module: its path and class, whether it is fused, and why not or through which ops.

    ``idle``: it is fused, and a batch of maps would run its original forward all the same; ``detail`` says why.
    """

    path: str
    cls: str
    fused: bool
    detail: str
    idle: bool = False

    @property
    def status(self) -> str:
        return ("idle" if self.idle else "fused") if self.fused else "skipped"


@dataclass
class FuseReport:
    """The outcome of ``fuse_``: ``fused`` and ``skipped`` modules; printing it gives a table.

    ``pyramids``: what was found in graphs of modules of unknown classes. Without an example these are read at the
    model's first call, and the report grows then.
    """

    entries: list[Entry] = field(default_factory=list)
    pyramids: list[Rewrite] = field(default_factory=list)
    #: The model's first call is still to come.
    waiting: bool = False
    #: What compiling the modules around them came to.
    compiled: GraphReport = field(default_factory=GraphReport)

    @property
    def fused(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.fused]

    @property
    def skipped(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.fused]

    def __str__(self) -> str:
        compiled = [line for line in self.compiled.left if line not in self.pyramids]
        parts = [self._modules() if self.entries else "", table(self.pyramids), table(compiled)]
        if self.waiting:
            parts.append("other modules' graphs are read at the model's first call, or now with an example_input")
        elif not self.entries and not self.pyramids:
            parts.append(f"no pyramid-pooling module found; looked for {LOOKED_FOR}")
        return "\n".join(filter(None, parts))

    def _modules(self) -> str:
        rows = [("module", "class", "", "backend of each op, or why not")]
        rows += [(e.path or "(model)", e.cls, e.status, e.detail) for e in self.entries]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
