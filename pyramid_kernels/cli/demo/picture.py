"""The demo's picture: photograph, label maps, their difference, loss curves, time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import MaxNLocator

from ...console import UsageError
from .model import CLASSES

if TYPE_CHECKING:
    from . import Outcome
    from .network import Outcome as NetworkOutcome

COLOURS = {"unfused": "#7f8c9b", "fused": "#d1495b"}
LABELS = ListedColormap(["#264653", "#2a9d8f", "#e9c46a", "#f4a261", "#e76f51"])
INK = "#333333"


def draw(outcome: Outcome, path: Path) -> None:
    """Write the picture to ``path``."""
    figure, grid = _figure(outcome.photo)
    _maps([figure.add_subplot(grid[0, i]) for i in range(4)], outcome)
    _curves(figure.add_subplot(grid[1, :2]), outcome)
    _costs(figure.add_subplot(grid[1, 2]), figure.add_subplot(grid[1, 3]), outcome, "training step")
    _save(figure, "DeepLab v3, its ASPP unfused and fused", path)


def draw_network(outcome: NetworkOutcome, path: Path) -> None:
    """Write the picture of a whole network to ``path``."""
    figure, grid = _figure(outcome.photo)
    _image(figure.add_subplot(grid[0, 0]), "photograph", outcome.photo)
    unfused, fused = (outcome.views[name].numpy() for name in ("unfused", "fused"))
    if unfused.ndim == 1:
        _vectors(figure.add_subplot(grid[0, 1:]), {"unfused": unfused, "fused": fused})
    else:
        different = unfused != fused
        _image(figure.add_subplot(grid[0, 1]), "unfused", unfused, "viridis")
        _image(figure.add_subplot(grid[0, 2]), "fused (same weights)", fused, "viridis")
        share = f"difference: {1 - different.mean():.3%} identical"
        _image(figure.add_subplot(grid[0, 3]), share, different, "Reds", 1)
    _costs(figure.add_subplot(grid[1, :2]), figure.add_subplot(grid[1, 2:]), outcome, "inference")
    _save(figure, f"{outcome.name} with random weights, unfused and fused", path)


def _figure(photo: Any) -> tuple[Figure, GridSpec]:
    """Four columns; a row as high as the photograph, and one below it."""
    height = 3.2 * photo.shape[0] / photo.shape[1]
    figure = Figure(figsize=(13, 4.4 + height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_gridspec(2, 4, height_ratios=[height, 3.3])


def _save(figure: Figure, title: str, path: Path) -> None:
    figure.suptitle(title, fontsize=15, color=INK)
    try:
        figure.savefig(path, dpi=110, metadata={})
    except OSError as error:
        raise UsageError(f"--out {str(path)!r} cannot be written: {error}") from None


def _image(axis: Axes, title: str, values: Any, colours: str | None = None, most: float | None = None) -> None:
    axis.set_title(title, fontsize=11, color=INK)
    axis.axis("off")
    axis.imshow(values, colours, interpolation="nearest", vmax=most)


def _vectors(axis: Axes, values: dict[str, Any]) -> None:
    for name, width in (("unfused", 3.0), ("fused", 1.0)):
        axis.plot(values[name], label=name, color=COLOURS[name], linewidth=width)
    axis.set_title("output", fontsize=11, color=INK)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)


def _maps(axes: list[Axes], outcome: Outcome) -> None:
    unfused, fused = (outcome.labels[name].numpy() for name in ("unfused", "fused"))
    different = unfused != fused
    share = f"{1 - different.mean():.3%} identical"
    titles = ["photograph", "labels, unfused", "labels, fused (same weights)", f"difference: {share}"]
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=11, color=INK)
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].imshow(outcome.photo)
    for axis, labels in zip(axes[1:3], (unfused, fused), strict=True):
        axis.imshow(outcome.photo.mean(2), cmap="gray")
        axis.imshow(labels, cmap=LABELS, vmin=0, vmax=CLASSES - 1, alpha=0.8, interpolation="nearest")
    axes[3].imshow(255 - (255 - outcome.photo.mean(2)) / 4, cmap="gray", vmin=0, vmax=255)
    axes[3].imshow(numpy.where(different, 1.0, numpy.nan), cmap="Reds", vmin=0, vmax=1, interpolation="nearest")


def _curves(axis: Axes, outcome: Outcome) -> None:
    for name, width in (("unfused", 5.0), ("fused", 1.6)):
        values = outcome.losses[name]
        axis.plot(range(1, len(values) + 1), values, label=name, color=COLOURS[name], linewidth=width)
    axis.set(xlabel="step", ylabel="cross-entropy", ylim=(0, None))
    axis.set_title("training both forms from the same weights", fontsize=11, color=INK)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)


def _costs(time: Axes, memory: Axes, outcome: Outcome | NetworkOutcome, work: str) -> None:
    note = "same path" if outcome.ratio is None else f"unfused / fused: {outcome.ratio:.2f}"
    _bars(time, {k: 1e3 * v for k, v in outcome.seconds.items()}, "ms", f"{work}, {note}")
    _bars(memory, {k: v / 1e6 for k, v in outcome.peak.items()}, "MB", f"peak memory, {work}")


def _bars(axis: Axes, values: dict[str, float], unit: str, title: str) -> None:
    bars = axis.bar(list(values), list(values.values()), color=[COLOURS[name] for name in values], width=0.55)
    axis.bar_label(bars, fmt=f"%.0f {unit}", padding=2, color=INK)
    axis.set_title(title, fontsize=11, color=INK)
    axis.set_ylabel(unit)
    axis.margins(y=0.15)
    axis.spines[["top", "right"]].set_visible(False)
