"""What was found on this machine: one small file an entry, in the user's cache folder.

Kinds: "trial", what a backend's body did with a problem of a model; "problem", which backend is fastest for one;
"module", how much faster a swapped module is. An entry counts on this device, with these versions and these sources.
Those that cannot be read are one warning; where none can be written, they are kept for the process.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import platform
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from ..verification import ledger

#: How far from a measured problem one of other sizes may be, in powers of two of every one of them.
NEAR = 1.0

Entry = dict[str, Any]


def device_name(kind: str) -> str:
    """The name of the processor, or of the GPU that is the current one."""
    if kind != "cpu":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else None
    return model[1].strip() if model else platform.processor() or platform.machine()


def place(kind: str) -> str:
    """What times belong to: a GPU and its multiprocessors, or a processor and the threads that PyTorch uses."""
    return _place(kind, torch.get_num_threads() if kind == "cpu" else torch.cuda.current_device())


@functools.lru_cache
def _place(kind: str, which: int) -> str:
    if kind == "cpu":
        return f"{device_name(kind)}, {which} threads"
    return f"{device_name(kind)}, {torch.cuda.get_device_properties(which).multi_processor_count} SMs"


def folder(where: str) -> Path | None:
    """Where the entries of a ``place`` lie, for these versions."""
    home = ledger.user_folder()
    return home and home / "proved" / re.sub(r"[^a-z0-9]+", "-", where.lower()).strip("-") / _hash(ledger.versions())


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def entries(where: str) -> dict[tuple[str, str], Entry]:
    """Every entry of a ``place`` by its kind and key, read once; ``put`` adds to it."""
    found: dict[tuple[str, str], Entry] = {}
    path = folder(where)
    unread = 0
    for file in sorted(path.glob("*.json")) if path else ():
        try:
            entry = json.loads(file.read_text(encoding="utf-8"))
            kind, key = entry.pop("kind"), entry.pop("key")
            if not isinstance(key, str) or not _holds(kind, key, entry):
                raise ValueError
            found[kind, key] = entry
        except (*ledger.UNREADABLE, AttributeError, KeyError, TypeError):
            unread += 1
    if unread:
        _warn(f"pyramid_kernels: {unread} files in {path} are ignored, they cannot be read")
    return found


#: What an entry of each kind has, and of which type.
_FIELDS: dict[str, dict[str, Any]] = {
    "body": {"wrong": str},
    "trial": {"error": int | float, "wrong": str, "lasting": bool},
    "problem": {"choice": str, "ratios": dict},
    "module": {"ratio": int | float},
    "model": {"ratio": int | float},
}


def _holds(kind: str, key: str, entry: Entry) -> bool:
    """Whether an entry is one of this version."""
    whole = all(isinstance(entry.get(name), of) for name, of in _FIELDS[kind].items())
    return whole and (kind != "problem" or len(json.loads(key)) == 5)


def get(where: str, kind: str, key: str) -> Entry | None:
    return entries(where).get((kind, key))


def put(where: str, kind: str, key: str, entry: Entry, lasting: bool = True) -> None:
    """Keep an entry: for this process in any case, a ``lasting`` one for later ones where the folder can be written."""
    entries(where)[kind, key] = entry
    for memory in ledger.forget if kind == "problem" else ():  # nothing else decides
        memory()
    path = folder(where)
    if path is None or not lasting:
        return
    half = path / f"{kind}-{_hash(key)}.{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        half.write_text(json.dumps({"kind": kind, "key": key, **entry}, indent=1) + "\n", encoding="utf-8")
        half.replace(half.with_suffix(".json"))
    except OSError as error:
        _warn(f"pyramid_kernels: results are kept for this process alone, {path} cannot be written: {error.strerror}")
        with contextlib.suppress(OSError):
            half.unlink(missing_ok=True)


@functools.lru_cache
def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def problem_key(op: str, problem: Any, sizes: tuple[int, ...], training: bool) -> str:
    """Of a "problem": a change of the op's sources makes it another one."""
    return json.dumps([op, ledger.source(op, "cuda"), _words(problem), training, [int(s) for s in sizes]])


def _words(problem: Any) -> str:
    return ", ".join(map(str, problem))


@functools.lru_cache(maxsize=4096)
def choice(where: str, op: str, problem: Any, sizes: tuple[int, ...], training: bool) -> str | None:
    """The backend that was fastest for this problem, or for the same one of the nearest size; None without either.

    ``training``: with the gradients that are wanted; what was measured in the other mode counts where this one was not.
    """
    for mode in (training, not training):
        same = _of(where, op, problem, mode)
        if sizes in same:
            return same[sizes]
    for mode in (training, not training):
        near = {s: b for s, b in _of(where, op, problem, mode).items() if _apart(s, sizes) <= NEAR}
        if near:
            return near[min(near, key=lambda s: _apart(s, sizes))]
    return None


@functools.lru_cache(maxsize=1024)
def _of(where: str, op: str, problem: Any, training: bool) -> dict[tuple[int, ...], str]:
    """By its sizes, the fastest backend of every problem measured that differs in sizes alone."""
    mine = [op, ledger.source(op, "cuda"), _words(problem), training]
    found = {}
    for (kind, key), entry in entries(where).items():
        if kind == "problem" and (parts := json.loads(key))[:4] == mine:
            found[tuple(parts[4])] = str(entry["choice"])
    return found


def _apart(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """The largest factor, in powers of two, between sizes of two problems that are one but for these."""
    if len(a) != len(b):
        return math.inf
    return max((0.0 if p == q else abs(math.log2(p / q)) if p and q else math.inf) for p, q in zip(a, b, strict=True))


ledger.forget += [choice.cache_clear, _of.cache_clear]
