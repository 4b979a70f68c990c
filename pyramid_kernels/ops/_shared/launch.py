"""Every Triton launch goes through ``launch``, and every launch can be counted, or recorded for a plan."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

if TYPE_CHECKING:
    from .recorder import Recorder

#: Counters that ``pyramid_kernels.testing.count_launches`` has switched on; keys are (kernel name, dtype name).
counters: list[Counter[tuple[str, str]]] = []

#: (backend, kernel, dtype) of everything launched while a counter was on.
launched: set[tuple[str, str, str]] = set()


class _Local(threading.local):
    recorder: Recorder | None = None  # of the call that this thread is in


local = _Local()


def record(backend: str, kernel: str, dtype: str) -> None:
    """Add one launch to every counter."""
    launched.add((backend, kernel, dtype))
    for counter in counters:
        counter[kernel, dtype] += 1


def launch(kernel: Any, grid: tuple[int, ...], like: torch.Tensor, *args: Any, **meta: Any) -> None:
    """Launch a Triton kernel on the device of ``like``, whose dtype names the instantiation; empty grids do nothing."""
    if 0 in grid:
        return
    dtype = str(like.dtype).removeprefix("torch.")
    if local.recorder is None:
        triton(kernel, grid, like.device, dtype, args, meta)
        return
    with _disable_current_modes():  # what Triton itself does is no part of the call
        compiled = triton(kernel, grid, like.device, dtype, args, meta)
    local.recorder.triton(kernel, grid, dtype, args, meta, compiled)


def triton(
    kernel: Any, grid: tuple[int, ...], device: torch.device, dtype: str, args: tuple[Any, ...], meta: dict[str, Any]
) -> Any:
    """One launch; the compiled kernel, where there is one."""
    if counters:
        record("triton", kernel.__name__, dtype)
    return on_device(device, start, kernel, grid, args, meta)


def on_device(device: torch.device, fn: Any, *args: Any) -> Any:
    """``fn(*args)`` while ``device`` is the current one."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return fn(*args)
    with torch.cuda.device(device):
        return fn(*args)


def start(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], meta: dict[str, Any]) -> Any:
    """Hand one launch to Triton. The oracle and the compile gate put their own function here."""
    return kernel[grid](*args, **meta)


#: ``start`` as it is, to see that nobody has put another there.
_START = start


def compiled(kernel: Any, dtype: str, run: Any, grid: tuple[int, int, int], stream: int, args: list[Any]) -> bool:
    """Launch a compiled Triton kernel, whose ``args`` are specialised as it was; False where Triton must be asked."""
    if start is not _START or launch_hooks():
        return False
    if counters:
        record("triton", kernel.__name__, dtype)
    run.run(*grid, stream, run.function, run.packed_metadata, None, None, None, *args)
    return True


def launch_hooks() -> Any:
    """What a profiler of Triton wants to hear of each launch."""
    runtime = _runtime()
    return runtime.launch_enter_hook.calls or runtime.launch_exit_hook.calls


@functools.cache
def _runtime() -> Any:
    """Triton's settings, imported with the first launch: an import statement costs as much as the rest."""
    import triton as library

    return library.knobs.runtime
