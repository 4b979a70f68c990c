"""``pk.compare``: a user's model unfused, fused and under ``torch.compile``, whole and module by module.

``import pyramid_kernels`` imports this file; what measures and draws is imported where it is used.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..backends import Backend
from ..console import require, table
from ..nn.base import check_backend

WHOLE = "whole model"


@dataclass(frozen=True)
class Row:
    """The whole model, whose ``path`` is "", or one fused module, all its calls in one run of the model together.

    Milliseconds are medians; a ratio is the median of unfused over this form in each round, above 1 where this form is
    faster; MB are the peak above what was allocated before, in 10^6 bytes. None: not measured.
    """

    path: str
    cls: str
    runs: str
    unfused_ms: float
    fused_ms: float | None
    compiled_ms: float | None
    fused_ratio: float | None
    compiled_ratio: float | None
    unfused_mb: float
    fused_mb: float | None
    compiled_mb: float | None


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` measured; printing it gives a table. ``rows[0]`` is the whole model.

    ``input`` has the shapes of the tensors, ``threads`` is PyTorch's number of them on the CPU, ``report`` is what
    ``fuse_`` said of every module, ``remarks`` why something was not measured.
    """

    model: str
    input: str
    dtype: str
    device: str
    threads: int
    torch: str
    mode: str
    rows: list[Row]
    remarks: list[str]
    report: str

    def caption(self) -> str:
        """The model and what it was run on, in one line."""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        place = f"{self.dtype}, {self.device}, {threads}, torch {self.torch}"
        return f"{self.model}, {self.mode}: {self.input}, {place}"

    def verdict(self) -> str:
        """The whole model's ratio in one sentence."""
        ratio = self.rows[0].fused_ratio
        if ratio is None:
            return "Nothing was fused, for the reasons below."
        if round(ratio, 2) <= 1:
            return f"The fused model is not faster here: unfused / fused is {ratio:.2f}."
        return f"The fused model is {ratio:.2f} times as fast as the unfused one."

    def __str__(self) -> str:
        columns: dict[str, list[Any]] = {
            "module": [row.path or WHOLE for row in self.rows],
            "class": [row.cls for row in self.rows],
        }
        for unit, kind in ("ms", "ms"), ("ratio", "ratio"), ("mb", "peak MB"):
            for form, name in ("unfused", "unfused"), ("fused", "fused"), ("compiled", "torch.compile"):
                values = [getattr(row, f"{form}_{unit}", None) for row in self.rows]
                if any(value is not None for value in values):
                    title = f"unfused / {name}" if unit == "ratio" else f"{name} {kind}"
                    columns[title] = [_number(value, unit) for value in values]
        if any(row.runs for row in self.rows):
            columns["runs"] = [row.runs for row in self.rows]
        text = table(list(columns), zip(*columns.values(), strict=True))
        note = "Times are medians, ratios the medians of those of each round: on a busy machine trust the ratios."
        return "\n".join([self.caption(), "", text, "", self.verdict(), *self.remarks, note, "", self.report])

    def to_json(self, path: str | Path) -> None:
        """Write every field, rows as objects, to ``path``. OSError: it cannot be written."""
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n")

    def plot(self, path: str | Path) -> None:
        """Draw the times as bars into a picture, in the format that the suffix of ``path`` names.

        Raises:
            UsageError: matplotlib is missing, or ``path`` cannot be written.
        """
        require("matplotlib", "a picture")
        from .bars import draw

        draw(self, Path(path))


def compare(
    model: nn.Module, x: Any, *, training: bool = False, compiled: bool = True, backend: Backend = "auto"
) -> Comparison:
    """Time a model, and each module of it that ``fuse_`` fuses, unfused, fused and under ``torch.compile``.

    The forms run in turns on the same inputs, a module's being those that it gets in a run of the model; results are
    compared first. Times are wall time on a CPU; on a GPU the larger of wall time and the time between events. The
    model stays as it is: copies of it run, two at a time.

    Args:
        model: any module on a CPU or one CUDA device.
        x: what the model takes: a tensor, a tuple of arguments or a dict of keyword arguments, on the model's device.
        training: forward and backward in training mode; otherwise the forward in evaluation mode, without gradients.
            A model that stands in that mode already keeps the modes of its modules, such as frozen norms.
        compiled: time the unfused form under ``torch.compile`` (default mode) as well, where there is a compiler.
        backend: of every op of the fused form, as in ``fuse_``.

    Returns:
        Comparison: printing it gives a table; ``rows``, ``to_json(path)`` and ``plot(path)``.

    Raises:
        FuseError: a fused form gives another result. BackendError: the named backend cannot run. TypeError, ValueError:
            naming the argument. Whatever the model raises on ``x``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    check_backend(backend)
    from .forms import measured

    return measured(model, x, training, compiled, backend)


def milliseconds(value: float) -> str:
    """In three digits or more."""
    return f"{value:.1f}" if value >= 100 else f"{value:#.3g}"


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return milliseconds(value) if unit == "ms" else f"{value:.2f}" if unit == "ratio" else f"{value:.1f}"
