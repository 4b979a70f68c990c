"""The picture of a comparison: a bar for every form of the whole model, and below of every fused module."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..console import UsageError
from .compare import WHOLE, Comparison, Row, milliseconds

COLOURS = {"unfused": "#7f8c9b", "fused": "#d1495b", "torch.compile": "#2a9d8f"}
INK = "#333333"
#: Inches of a bar, and of the space between rows.
BAR, GAP = 0.22, 0.2


def draw(comparison: Comparison, path: Path) -> None:
    """Write the picture to ``path``. UsageError: it cannot be written."""
    whole, modules = comparison.rows[:1], comparison.rows[1:]
    groups = [rows for rows in (whole, modules) if rows]
    heights = [sum(len(_times(row)) * BAR + GAP for row in rows) for rows in groups]
    figure = Figure(figsize=(10, sum(heights) + 0.6 * len(groups) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(comparison), fontsize=11, color=INK)
    axes = figure.subplots(len(groups), 1, height_ratios=[height + 0.3 for height in heights], squeeze=False)[:, 0]
    for axis, rows in zip(axes, groups, strict=True):
        _bars(axis, rows)
    axes[-1].set_xlabel("milliseconds (each part has its own scale)" if modules else "milliseconds", color=INK)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise UsageError(f"{str(path)!r} cannot be written: {error}") from None


def _title(comparison: Comparison) -> str:
    first, _, rest = comparison.caption().partition(": ")
    return f"{first}\n{rest}"


def _times(row: Row) -> dict[str, tuple[float, float | None]]:
    """Milliseconds of the forms that were timed, and the ratio to the first."""
    found = {
        "unfused": (row.unfused_ms, None),
        "fused": (row.fused_ms, row.fused_ratio),
        "torch.compile": (row.compiled_ms, row.compiled_ratio),
    }
    return {form: (ms, ratio) for form, (ms, ratio) in found.items() if ms is not None}


def _bars(axis: Axes, rows: list[Row]) -> None:
    top, ticks, seen = 0.0, [], set()
    for row in rows:
        times = _times(row)
        ticks.append(top + BAR * (len(times) - 1) / 2)
        for i, (form, (ms, ratio)) in enumerate(times.items()):
            label = None if form in seen else form
            seen.add(form)
            bar = axis.barh(top + BAR * i, ms, 0.85 * BAR, color=COLOURS[form], label=label)
            text = milliseconds(ms) + " ms" + (f"  ({ratio:.2f} times as fast)" if ratio else "")
            axis.bar_label(bar, [text], padding=3, fontsize=9, color=INK)
        top += BAR * len(times) + GAP
    axis.set_yticks(ticks, [f"{row.path or WHOLE}\n{row.cls}" for row in rows], fontsize=9, color=INK)
    axis.set_ylim(top - GAP - BAR / 2, -BAR)
    axis.margins(x=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
