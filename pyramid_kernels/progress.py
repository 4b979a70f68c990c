"""The progress bar of everything that may take longer than a moment."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")

#: Seconds after which a bar is shown.
DELAY = 2.0
#: Seconds between the lines that stand for the bar off a terminal.
LINES = 10.0


def progress(items: Sequence[T], text: str, name: Callable[[T], str] = str) -> Iterable[T]:
    """``items`` behind a bar on stderr that shows the one at work; it comes after a delay and disappears when done.

    Off a terminal a line now and then says how far it is.
    """
    from tqdm import tqdm

    shown = sys.stderr.isatty()
    bar = tqdm(items, desc=text, leave=False, disable=not shown, dynamic_ncols=True, delay=DELAY)
    said = time.monotonic()
    for done, item in enumerate(bar):
        bar.set_postfix_str(name(item), refresh=shown and bar.format_dict["elapsed"] > DELAY)
        if not shown and time.monotonic() - said > LINES:
            said = time.monotonic()
            print(f"{text}: {done} of {len(items)} done, now {name(item)}", file=sys.stderr, flush=True)
        yield item


def say(text: str) -> None:
    """Print ``text`` to stdout, above the bar if one is shown."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
