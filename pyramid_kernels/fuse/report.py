"""What ``fuse_`` did with every module it knows, or thinks it might."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    """The outcome of ``fuse_``: ``fused`` and ``skipped`` modules; printing it gives a table."""

    entries: list[Entry] = field(default_factory=list)

    @property
    def fused(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.fused]

    @property
    def skipped(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.fused]

    def __str__(self) -> str:
        if not self.entries:
            return "no pyramid-pooling module found"
        rows = [("module", "class", "", "backend of each op, or why not")]
        rows += [(e.path or "(model)", e.cls, e.status, e.detail) for e in self.entries]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
