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
    ``ratio``: where an example was timed, the unfused module's time over the fused one's on it; a module that is not
    faster is left. ``error``: the largest error of its ops over what is allowed; the unfused chain's own has none.
    """

    path: str
    cls: str
    fused: bool
    detail: str
    idle: bool = False
    ratio: float | None = None
    error: float | None = None

    @property
    def status(self) -> str:
        if self.fused:
            return "idle" if self.idle else "fused"
        return "skipped" if self.ratio is None else "left"


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
    #: By op and backend, what is not taken here because it is wrong, or did not come to an end.
    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    #: The unfused model's time over the fused one's, where an example was timed and something is fused.
    speedup: float | None = None

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
        parts += [f"{op}: {backend} is not taken on this machine: {why}" for (op, backend), why in self.refused.items()]
        if self.speedup is not None:
            slower = "" if self.speedup > 1 else ": it is not faster as a whole"
            parts.append(f"the whole model: unfused / fused {self.speedup:.2f}{slower}")
        return "\n".join(filter(None, parts))

    def _modules(self) -> str:
        rows = [("module", "class", "", "backend of each op, or why not")]
        rows += [(e.path or "(model)", e.cls, e.status, e.detail) for e in self.entries]
        if any(e.ratio is not None for e in self.entries):
            numbers = [("unfused / fused", "error / limit")]
            numbers += [tuple("" if v is None else f"{v:.2f}" for v in (e.ratio, e.error)) for e in self.entries]  # type: ignore[misc]
            rows = [(*row[:3], *pair, row[3]) for row, pair in zip(rows, numbers, strict=True)]  # type: ignore[misc]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
