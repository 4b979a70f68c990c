"""The progress bar of everything that may take longer than a moment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")

#: Seconds after which a bar is shown.
DELAY = 2.0


def progress(items: Sequence[T], text: str, name: Callable[[T], str] = str) -> Iterable[T]:
    """``items`` behind a bar on stderr that shows the one at work; it comes after a delay and disappears when done."""
    from tqdm import tqdm

    shown = sys.stderr.isatty()
    bar = tqdm(items, desc=text, leave=False, disable=not shown, dynamic_ncols=True, delay=DELAY)
    for item in bar:
        bar.set_postfix_str(name(item), refresh=shown and bar.format_dict["elapsed"] > DELAY)
        yield item
