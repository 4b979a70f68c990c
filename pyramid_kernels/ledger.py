"""What has been verified and measured on GPUs: the shipped ledger, and the user's own beside it.

``gpu_ledger.json`` ships with the package. ``python -m pyramid_kernels verify`` and ``tune`` write the user's file.
An entry of "verified" is {"op", "backend", "arch", "gpu", "versions", "commit", "ran", "result"}; of "ratios"
{"op", "backend", "arch", "ratio"}: the unfused chain's time over ours, the slowest row.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).with_name("gpu_ledger.json")


def user_file() -> Path:
    """Where this user's results are kept: PYRAMID_KERNELS_HOME, or the cache folder of the XDG standard."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pyramid_kernels"
    return Path(os.environ.get("PYRAMID_KERNELS_HOME", cache)) / "gpu_ledger.json"


@functools.lru_cache
def read() -> dict[str, list[dict[str, Any]]]:
    """Shipped and user entries together, read once."""
    merged: dict[str, list[dict[str, Any]]] = {"verified": [], "ratios": []}
    for path in (SHIPPED, user_file()):
        if path.is_file():
            for section, entries in json.loads(path.read_text()).items():
                merged[section] += entries
    return merged


def record(section: str, entry: dict[str, Any]) -> Path:
    """Add ``entry`` to the user's file, replacing the one for the same op, backend and architecture."""
    path = user_file()
    content = json.loads(path.read_text()) if path.is_file() else {}
    keep = [e for e in content.get(section, []) if _key(e) != _key(entry)]
    content[section] = [*keep, entry]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    read.cache_clear()
    return path


def why_not(op: str, bound: str, backend: str, arch: int) -> str | None:
    """Why ``auto`` does not take this kernel body on this architecture; None if it does."""
    key = (op, backend, arch)
    results = [e["result"] for e in read()["verified"] if _key(e) == key]
    if not results:
        return f"not verified on compute capability {arch / 10:.1f}"
    if results[-1] != "passed":  # the user's own result follows the shipped one
        return f"verification {results[-1]} on compute capability {arch / 10:.1f}"
    ratios = [e["ratio"] for e in read()["ratios"] if _key(e) == key]
    if ratios and ratios[-1] < 1.0:
        return f"measured {ratios[-1]:.2f}x the unfused chain's speed on this architecture"
    if not ratios and bound == "gemm":
        return "no measurement for this architecture, and GEMM ops are off without one"
    return None


def _key(entry: dict[str, Any]) -> tuple[str, str, int]:
    return entry["op"], entry["backend"], entry["arch"]
