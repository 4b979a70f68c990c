"""What the package holds, found by walking it: ops, the cases of their specs, Triton and CUDA kernels."""

import functools
import importlib
import importlib.util
import pkgutil
import re
from types import ModuleType
from typing import Any

import torch

from pyramid_kernels import _native, ops
from pyramid_kernels.ops import all_ops
from pyramid_kernels.ops._shared.spec import Case
from pyramid_kernels.verification.oracle import cannot_check, spec
from tests.processes import ROOT

_GLOBAL = re.compile(r"__global__[^;{]*?\b(\w+_kernel)\(")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
#: Kernels that read fp32 partial sums only, whatever the op's dtype.
FP32_ONLY = {"dilated_branches_bwd_sums_kernel"}
#: Bodies for Hopper's tensor cores take half precision only.
HALF = (torch.float16, torch.bfloat16)


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def specified_ops() -> list[str]:
    """Every op that has a ``spec.py``."""
    return [name for name in all_ops() if importlib.util.find_spec(f"{ops.__name__}.{name}.spec")]


def cases(op: str) -> list[Case]:
    return list(spec(op).CASES)


def backends(op: str) -> tuple[str, ...]:
    composed = ("composed",) if all_ops()[op].composed else ()
    cuda = () if isinstance(all_ops()[op].module("cuda"), str) else ("cuda",)
    return (*composed, "triton", *cuda)


#: The kernels that are quick here: the simulator's, where it can be built, and not those of Triton's interpreter.
QUICKEST = backends("pyramid_pool")[-1]


def triton_modules() -> dict[str, ModuleType]:
    """Every module of Triton kernels by the folder it is in."""
    found: dict[str, Any] = {}
    for folder in filter(lambda found: found.ispkg, pkgutil.iter_modules(ops.__path__)):
        package = importlib.import_module(f"{ops.__name__}.{folder.name}")
        names = [m.name for m in pkgutil.iter_modules(package.__path__) if "triton" in m.name]
        found |= {f"{folder.name}.{name}": importlib.import_module(f"{package.__name__}.{name}") for name in names}
    return found


def kernels_of(module: ModuleType) -> dict[str, Any]:
    """The ``*_kernel`` functions that ``module`` defines."""
    named = {name: value for name, value in vars(module).items() if name.endswith("_kernel") and hasattr(value, "fn")}
    return {name: value for name, value in named.items() if value.fn.__module__ == module.__name__}


def cuda_kernels() -> dict[str, set[str]]:
    """Every ``__global__`` function of csrc/ by the folder it is in."""
    found: dict[str, set[str]] = {}
    for source in sorted((ROOT / "csrc").glob("*/*.cu*")):
        if names := _GLOBAL.findall(source.read_text()):
            found.setdefault(source.parent.name, set()).update(names)
    return found


@functools.lru_cache
def kernel_dtypes(op: str, backend: str = "triton") -> tuple[torch.dtype, ...]:
    """The dtypes in which ``op`` runs on a kernel backend here."""
    first = cases(op)[0]
    return tuple(d for d in DTYPES if cannot_check(op, first, backend, d, False, DEVICE) is None)


def only(kernel: str) -> tuple[torch.dtype, ...]:
    """The dtypes that ``kernel`` is for."""
    return (torch.float32,) if kernel in FP32_ONLY else HALF if kernel.endswith("_sm90_kernel") else DTYPES


@functools.lru_cache
def expected_launches() -> frozenset[tuple[str, str, str]]:
    """(backend, kernel, dtype) of everything that a whole run launches here."""
    expected = set()
    if not isinstance(_native.module(DEVICE), str):
        for folder, kernels in cuda_kernels().items():
            dtypes = kernel_dtypes(folder, "cuda")
            expected |= {("cuda", k, short(d)) for k in kernels for d in dtypes if d in only(k)}
    for path, module in triton_modules().items():
        folder = path.split(".")[0]
        dtypes = kernel_dtypes(folder) if folder in specified_ops() else (torch.float32, torch.float16)
        for kernel in kernels_of(module):
            expected |= {("triton", kernel, short(d)) for d in dtypes if d in only(kernel)}
    return frozenset(expected)
