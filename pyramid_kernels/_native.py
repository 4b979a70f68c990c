"""The compiled modules, each loaded once: the CUDA core, and the host simulator that tests name.

Importing this never fails; a module that is absent is remembered as the reason why.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType

#: Names the host simulator: the path of the extension module that ``tests/hostsim.py`` builds.
SIMULATOR = "PYRAMID_KERNELS_HOSTSIM"


@functools.lru_cache
def module(device: str) -> ModuleType | str:
    """The native functions for tensors on "cuda" or "cpu" (the simulator's), or the reason why there are none."""
    return _core() if device == "cuda" else _simulator() if device == "cpu" else f"no CUDA kernels for {device} tensors"


def simulated() -> bool:
    """Whether CUDA kernels run on CPU tensors, in the host simulator."""
    return not isinstance(module("cpu"), str)


def _core() -> ModuleType | str:
    path = f"{__package__}._cuda"
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            return f"the CUDA core cannot be imported: {error}"
        return "this installation has no CUDA core; reinstall with nvcc on PATH or CUDA_HOME set (see docs/build.md)"
    except ImportError as error:
        return f"the CUDA core cannot be imported: {error}"


def _simulator() -> ModuleType | str:
    named = os.environ.get(SIMULATOR)
    if not named:
        return "CUDA kernels need a CUDA device, got cpu"
    try:
        spec = importlib.util.spec_from_file_location(f"{__package__}.{Path(named).name.split('.')[0]}", named)
        if spec is None or spec.loader is None:
            return f"{SIMULATOR}={named} is not an extension module"
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded
    except ImportError as error:
        return f"{SIMULATOR}={named} cannot be imported: {error}"
