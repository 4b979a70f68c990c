"""One folder per op. ``all_ops`` finds them; nothing here names one."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from types import ModuleType

from ..backends import Op


@functools.lru_cache
def all_ops() -> dict[str, Op]:
    """Every op by name, in alphabetical order: a folder with an ``op.py`` is an op."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.ispkg and not m.name.startswith("_"))
    return {name: importlib.import_module(f"{__name__}.{name}.op").OP for name in names}


def spec(op: str) -> ModuleType:
    """The op's ``spec.py``."""
    return importlib.import_module(f"{__name__}.{op}.spec")
