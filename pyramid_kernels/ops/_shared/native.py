"""What every CUDA backend shares: when it can run, and the one way into the compiled module."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ... import _native
from ...backends import BackendError, Problem, capability
from . import launch

#: Element types of the kernels, as csrc/common/dispatch.h has them.
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

#: What kernels on CPU tensors are planned for: few multiprocessors, so that tests' maps fill them or do not.
SIMULATED_PROCESSORS, SIMULATED_ARCHITECTURE = 8, 90

_current_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # a CPU build of torch has none
_counting = threading.Lock()


def cannot_launch(problem: Problem) -> str | None:
    """Why no CUDA kernel of this build can run on this device; None if it can."""
    module = _native.module(problem.device)
    if isinstance(module, str):
        return module
    if problem.device == "cuda" and torch.version.hip:
        return "no CUDA kernel for ROCm"
    if problem.dtype not in DTYPES:
        return f"no kernel for {str(problem.dtype).removeprefix('torch.')}"
    if problem.device == "cuda" and not covers(module.architectures, problem.arch):
        return f"built for {module.architectures}, found compute capability {problem.arch / 10:.1f}"
    return None


@functools.lru_cache
def covers(architectures: str, capability: int) -> bool:
    """Whether code compiled for ``architectures`` ("80-real 90a-real 120") runs on a device of ``capability``."""
    return any(_runs(entry, capability) for entry in architectures.split())


def _runs(entry: str, capability: int) -> bool:
    name, _, kind = entry.partition("-")
    number = int(name.rstrip("af"))
    if name.endswith("a"):  # architecture-specific: no other device, no compiling for later ones
        return capability == number
    same_family = number <= capability and number // 10 == capability // 10
    return (same_family and kind != "virtual") or (kind != "real" and number <= capability and not name.endswith("f"))


@functools.lru_cache
def multiprocessors(device: torch.device) -> int:
    """What work is shared out for."""
    if device.type != "cuda":
        return SIMULATED_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def architecture(device: torch.device) -> int:
    """Compute capability times ten, which picks between a kernel's bodies."""
    return capability(device) if device.type == "cuda" else SIMULATED_ARCHITECTURE


def core(device: str) -> ModuleType:
    """The compiled module for tensors on "cuda" or "cpu"."""
    module = _native.module(device)
    if isinstance(module, str):
        raise BackendError(module)
    return module


def launch_native(name: str, head: tuple[Any, ...], *tensors: Tensor | None | list[Any]) -> None:
    """Launch the native function ``name``: settings and sizes, then tensors, None or lists of them.

    Raises ValueError for a tensor of a wrong shape, RuntimeError with the core's own line for a refused launch.
    """
    each = [t for given in tensors for t in (given if isinstance(given, list) else [given])]
    device = next(t.device for t in each if t is not None)
    ready = getattr(core(device.type), name)(*head, *tensors)
    if launch.local.recorder is not None:
        launch.local.recorder.native(ready, each)
    run(ready, device, stream(device), [0 if t is None else t.data_ptr() for t in each])


def run(ready: Any, device: torch.device, stream: int, addresses: list[int]) -> None:
    """Launch a checked call with tensors at these addresses."""
    (counted(ready, device) if launch.counters else ready.run)(device.index or 0, stream, addresses)


def counted(ready: Any, device: torch.device) -> Callable[..., None]:
    """``ready.run`` whose launches are added to every counter."""
    return functools.partial(_counted, core(device.type), ready.run)


def stream(device: torch.device) -> int:
    """The current stream of a CUDA device as the core takes it; 0 for a CPU."""
    if device.type != "cuda":
        return 0
    return _current_stream(device.index) if _current_stream else torch.cuda.current_stream(device).cuda_stream


def _counted(module: ModuleType, function: Any, *args: Any) -> None:
    """One call at a time: backward passes come from other threads."""
    with _counting:
        module.listen(True)
        try:
            function(*args)
        finally:
            module.listen(False)
            for kernel, dtype in module.take_launches():
                launch.record("cuda", kernel, dtype)
