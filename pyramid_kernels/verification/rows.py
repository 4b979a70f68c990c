"""An op's cases on a backend, in one dtype and layout, as a row: launches, and the worst error over its limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..backends import KERNELS, Op
from ..console import interpret_without_gpu
from . import ledger, oracle

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LAYOUTS = ("contiguous", "channels_last")
HEADER = ("op", "backend", "dtype", "layout", "cases", "launches", "error/limit")


class Row(NamedTuple):
    """One op, backend, dtype and layout: cases run, kernels launched, and the worst error over its limit."""

    op: str
    backend: str
    dtype: str
    layout: str
    cases: int
    launches: int
    error: float
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    op: Op
    backend: str
    dtype: torch.dtype
    channels_last: bool

    def __str__(self) -> str:
        return " ".join(self.names)

    @property
    def names(self) -> tuple[str, str, str, str]:
        body = ledger.body_of(self.dtype, self.channels_last)
        return self.op.name, self.backend, body["dtype"], body["layout"]

    def settings(self, case: Any, device: str) -> dict[str, Any]:
        """The arguments of ``oracle.check``."""
        own = {"op": self.op.name, "backend": self.backend, "dtype": self.dtype, "channels_last": self.channels_last}
        return {**own, "case": case, "device": device}


def verify(op: Op, backends: Iterable[str] | None = None, cases: int | None = None) -> list[Row]:
    """The rows of one op: these backends (default: all but the reference), its first ``cases`` cases (default: all)."""
    device = interpret_without_gpu()
    return [row_of(job, able, device) for job, able in chosen(jobs_of(op, backends), device, cases)]


def jobs_of(op: Op, backends: Iterable[str] | None) -> list[Job]:
    backends = backends or ("composed", *KERNELS)
    return [Job(op, b, dtype, last) for b in backends for dtype in DTYPES for last in (False, True)]


def chosen(jobs: Iterable[Job], device: str, cases: int | None = None) -> Iterator[tuple[Job, list[Any]]]:
    """Jobs with the cases they can run: in both layouts on a GPU, in turns on a CPU, where a kernel takes seconds."""
    for job in jobs:
        every = enumerate(oracle.spec(job.op.name).CASES[:cases])
        mine = [case for i, case in every if device == "cuda" or (i % 2 == 1) == job.channels_last]
        if able := [case for case in mine if oracle.cannot_check(**job.settings(case, device)) is None]:
            yield job, able


def row_of(job: Job, cases: list[Any], device: str) -> Row:
    reports, failures = [], []
    for case in cases:
        try:
            report = oracle.check(**job.settings(case, device))
        except Exception as error:  # whatever a compiler or a driver throws is this body's result
            failures.append(f"{case.id}: {type(error).__name__}: {_first_line(error)}")
            if lost(device):
                break
            continue
        reports.append(report)
        failures += [f"{case.id}: {text}" for text in report.failures()]
    worst = max((r.worst for r in reports), default=0.0)
    launches = sum(r.launches for r in reports)
    if reports and job.backend in KERNELS and not launches:
        failures.append("no kernel was launched")
    return Row(*job.names, len(cases), launches, worst, tuple(failures))


def lost(device: str) -> str | None:
    """What the GPU says since an error that every later call repeats, such as an illegal access; None if it is well."""
    try:
        if device == "cuda":
            torch.cuda.synchronize()
    except RuntimeError as error:
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    """The line that tells: a driver's first, a compiler's last."""
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if lines[0].startswith("CUDA") else lines[-1]


def reason(op: Op, backend: str, device: str) -> str | None:
    return oracle.cannot_check(op.name, oracle.spec(op.name).CASES[0], backend, torch.float32, True, device)


def printed(row: Row) -> list[Any]:
    """The cells of a table."""
    return [*row[:5], row.launches if row.backend in KERNELS else "-", f"{row.error:.2f}"]
