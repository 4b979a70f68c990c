"""Rows of measurements: what all of them say, and the CSV that keeps them."""

from __future__ import annotations

import csv
import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..console import UsageError, commit, driver
from ..proving.results import device_name as device_name


def recordable(out: Path) -> None:
    """Refuse to record what nobody could measure again, or where nothing can be written; makes the folder."""
    if commit().endswith("-dirty"):
        raise UsageError(
            f"--out {out}: the source tree has changes that no commit holds; commit them, or measure without --out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out} must be a folder that can be written to: {error.strerror}") from None


def environment(device: str) -> dict[str, Any]:
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "driver": driver() if device != "cpu" else "",
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }


def device_slug(device: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    return f"cpu-{slug}" if device == "cpu" else slug


def keep(path: Path, rows: list[dict[str, Any]], columns: Sequence[str]) -> None:
    """Add ``rows`` to the file, whole or not at all; older rows are empty in columns that they did not have."""
    kept = []
    if path.is_file():
        with path.open(newline="") as file:
            kept = list(csv.DictReader(file))
    written = path.with_suffix(".part")
    with written.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys([*(kept[0] if kept else ()), *columns])), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *rows])
    written.replace(path)
