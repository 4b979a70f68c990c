"""What has been verified and measured on GPUs: the shipped ledger, and the user's own beside it.

``gpu_ledger.json`` ships with the package. ``python -m pyramid_kernels verify`` and ``tune`` write the user's file,
which is a cache: what of it cannot be read is one warning and no entry. An entry of "verified" or "ratios" is
{"op", "backend", "dtype", "layout", "arch", "gpu", "versions", "source"} and {"result", "ran", "commit", "driver"}, or
{"ratio"}: the unfused chain's time over ours, the slowest row. It counts where all of the first eight are as here.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from .._version import __version__

if sys.platform != "win32":
    import fcntl

_PACKAGE = Path(__file__).parents[1]
SHIPPED = _PACKAGE / "gpu_ledger.json"
BUILD_INFO = _PACKAGE / "build_info.json"
OPS = _PACKAGE / "ops"
COMMAND = "python -m pyramid_kernels"

Entries = dict[str, list[dict[str, Any]]]
SECTIONS = ("verified", "ratios")
#: A new entry replaces the one that says the same in all of these.
KEY = ("op", "backend", "dtype", "layout", "arch", "gpu", "versions")
#: What reading a file that is not a ledger may raise.
UNREADABLE = (OSError, ValueError, OverflowError, RecursionError)

#: Called after every ``record``: those who remember what followed from the entries.
forget: list[Callable[[], None]] = []


class LedgerError(RuntimeError):
    """A result cannot be written; the message says where and why."""


def user_folder() -> Path | None:
    """Where this user's results are kept: PYRAMID_KERNELS_HOME, or the cache folder of the XDG standard.

    None where neither is set and the user has no home folder.
    """
    if named := os.environ.get("PYRAMID_KERNELS_HOME"):
        return Path(named)
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # the standard ignores a relative one
        try:
            cache = Path.home() / ".cache"
        except RuntimeError:  # no HOME, and no entry in the table of users
            return None
    return cache / "pyramid_kernels" if cache.is_absolute() else None


def user_file() -> Path | None:
    """This user's ledger; None where there is no folder for it."""
    folder = user_folder()
    return folder and folder / "gpu_ledger.json"


@functools.lru_cache
def read() -> Entries:
    """Shipped and user entries together, read once."""
    merged: Entries = {section: [] for section in SECTIONS}
    for path in filter(None, (SHIPPED, user_file())):
        try:
            for section, entries in _parsed(path).items():
                merged[section] += entries
        except UNREADABLE as error:
            _warn(f"pyramid_kernels: {path} is ignored, it cannot be read: {type(error).__name__}: {error}")
    return merged


@functools.lru_cache
def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def _parsed(path: Path) -> Entries:
    """The entries of a file, none if there is none; one of UNREADABLE if it is not a ledger of this version."""
    if not path.exists():
        return {}
    if not path.is_file():  # opening a pipe would wait
        raise OSError("not a file")
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not content.keys() <= set(SECTIONS):
        raise ValueError(f"expected an object of {' and '.join(SECTIONS)} alone")
    for section, entries in content.items():
        if not isinstance(entries, list) or not all(map(_well_typed, entries)):
            raise ValueError(f"an entry of {section!r} is not one of this version")
    return content


def _well_typed(entry: Any) -> bool:
    return isinstance(entry, dict) and all(
        type(value) in (int, float) and math.isfinite(value) if name in ("arch", "ratio") else isinstance(value, str)
        for name, value in entry.items()
    )


def record(section: str, *entries: dict[str, Any]) -> Path:
    """Add ``entries`` to the user's file, each in place of the one with its KEY; versions and source are filled in.

    Without entries this tells whether results can be written. LedgerError where they cannot.
    """
    path = user_file()
    if path is None:
        raise LedgerError("results cannot be kept: there is no home folder; set PYRAMID_KERNELS_HOME to a folder")
    stamped = [{"versions": versions(), "source": source(e["op"], e["backend"]), **e} for e in entries]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            _replace(path, section, stamped)
    except OSError as error:
        raise LedgerError(f"{path} cannot be written: {error}; set PYRAMID_KERNELS_HOME to another folder") from error
    read.cache_clear()
    for memory in forget:
        memory()
    return path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time, where the system and the file system have locks."""
    with path.with_suffix(".lock").open("a") as lock:
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # a network file system without locks: a write stays whole
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _replace(path: Path, section: str, entries: list[dict[str, Any]]) -> None:
    """Write the file anew beside itself and put it in its place, so that no reader sees half of it."""
    try:
        content = _parsed(path)
    except UNREADABLE:
        content = {}
        if path.is_file():  # perhaps a later version's
            path.replace(path.with_suffix(".unreadable"))
    new = {_key(e) for e in entries}
    content[section] = [*(e for e in content.get(section, []) if _key(e) not in new), *entries]
    half = path.with_suffix(f".{os.getpid()}")
    try:
        half.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def _key(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry.get(name) for name in KEY)


def why_not(
    op: str, bound: str, backend: str, arch: int, dtype: torch.dtype = torch.float32, channels_last: bool = False,
    gpu: str = "",
) -> str | None:  # fmt: skip
    """Why ``auto`` does not take this kernel body on this GPU, and the command that may change it; None if it does."""
    body = {"op": op, "backend": backend, **body_of(dtype, channels_last)}
    place = f"on compute capability {arch / 10:.1f} for {body['dtype']} {body['layout']}"
    verify, tune = f"`{COMMAND} verify --op {op}`", f"`{COMMAND} tune --op {op} --dtype {body['dtype']}`"
    entries = [e for e in read()["verified"] if body.items() <= e.items()]
    results = [e["result"] for e in entries if "result" in e and counts(e, arch, gpu)]
    measured = [e for e in read()["ratios"] if body.items() <= e.items()]
    ratios = [e["ratio"] for e in measured if "ratio" in e and counts(e, arch, gpu)]
    if not results:
        elsewhere = ", only with other versions, kernel sources or GPUs" if entries else ""
        then = f" and {tune}" if bound == "gemm" and not ratios else ""
        return f"not verified {place}{elsewhere}; run {verify}{then}"
    if results[-1] != "passed":  # the user's own result follows the shipped one
        return f"verification {results[-1]} {place}; {verify} says why"
    if ratios and ratios[-1] < 1.0:
        return f"measured {ratios[-1]:.2f}x the unfused chain's speed {place}"
    if not ratios and bound == "gemm":
        return f"no measurement {place}, and GEMM ops are off without one; run {tune}"
    return None


def body_of(dtype: torch.dtype, channels_last: bool) -> dict[str, str]:
    """How entries name a dtype and a layout."""
    return {"dtype": str(dtype).removeprefix("torch."), "layout": "channels_last" if channels_last else "contiguous"}


def counts(entry: dict[str, Any], arch: int, gpu: str) -> bool:
    """Whether an entry is about this GPU and what runs here now."""
    if (entry.get("arch"), entry.get("gpu", ""), entry.get("versions")) != (arch, gpu, versions()):
        return False
    return bool(entry.get("source") == source(str(entry.get("op")), str(entry.get("backend"))))


@functools.cache
def versions() -> str:
    """What results belong to beside the sources."""
    return (
        f"pyramid_kernels {__version__}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"triton {installed('triton')}"
    )


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def source(op: str, backend: str) -> str:
    """A hash of what this backend of ``op`` is made of: the folders of its Python sources, and of the compiled ones."""
    folders = ["_shared", *_with_imported(op)]
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted((OPS / folder).glob("*.py")):
            if file.name != "spec.py":  # its cases
                digest.update(file.read_bytes())
    if backend == "cuda":
        digest.update(json.dumps([_compiled().get(name) for name in ("common", "bindings", *folders)]).encode())
    return digest.hexdigest()[:16]


def _with_imported(op: str) -> list[str]:
    """``op`` and the ops that its sources import, theirs as well."""
    found = [op]
    for name in found:  # which grows meanwhile
        text = "".join(file.read_text(encoding="utf-8") for file in (OPS / name).glob("*.py"))
        found += sorted(set(re.findall(r"^from \.\.([a-z]\w*)", text, re.MULTILINE)) - set(found))
    return found


@functools.cache
def _compiled() -> dict[str, str]:
    """By folder of ``csrc`` the hash of what the CUDA core was compiled from; without a record, when it was made."""
    with contextlib.suppress(*UNREADABLE, KeyError, TypeError):
        return dict(json.loads(BUILD_INFO.read_text())["sources"])
    return {"common": str([file.stat().st_mtime_ns for file in BUILD_INFO.parent.glob("_cuda.*")])}
