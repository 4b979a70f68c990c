"""What every Triton backend shares: when it can run, accumulator types, tile sizes."""

from __future__ import annotations

import functools
import os
import shutil
import sysconfig
from pathlib import Path

import torch
import triton
import triton.language as tl

from ...backends import Problem, capability

#: The interpreter runs kernels on a CPU; Triton reads TRITON_INTERPRET when kernels are decorated.
INTERPRETED: bool = triton.knobs.runtime.interpret

#: The architecture whose tiles are chosen off the GPU: the interpreter runs these, ahead-of-time compiles set it.
COMPILED_FOR = 90


def cannot_launch(problem: Problem, float64: bool = True) -> str | None:
    """Why no Triton kernel can run on this device and dtype; None if it can."""
    if problem.dtype == torch.float64 and not float64:
        return "no float64 kernel"
    if INTERPRETED:
        if problem.dtype == torch.bfloat16:
            return "Triton's interpreter computes bfloat16 wrongly; run a float32 copy"
        return None
    if problem.device != "cuda":
        return f"Triton needs a CUDA device, got {problem.device} (TRITON_INTERPRET=1 interprets kernels on a CPU)"
    if torch.version.hip:
        return "no Triton kernel for ROCm: they bound registers by maxnreg, which Triton knows for CUDA alone"
    if problem.arch < 80:
        return f"needs compute capability 8.0 or newer, got {problem.arch / 10:.1f}"
    return cannot_build()


@functools.cache
def cannot_build() -> str | None:
    """Why Triton cannot build its launcher, a C extension, where ``triton.runtime.build`` looks; None if it can."""
    if triton.knobs.build.impl:
        return None
    compiler = os.environ.get("CC")
    if compiler is not None and not shutil.which(compiler):
        return f"Triton builds its launcher with a C compiler, and CC={compiler!r} is none; set CC to one"
    if compiler is None and not (shutil.which("gcc") or shutil.which("clang")):
        return "Triton builds its launcher with a C compiler, and there is none; install gcc or set CC"
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    named = f"{os.environ.get('CPATH', '')}{os.pathsep}{os.environ.get('C_INCLUDE_PATH', '')}".split(os.pathsep)
    folders = [sysconfig.get_paths(scheme)["include"], *filter(None, named)]
    if not any(Path(folder, "Python.h").is_file() for folder in folders):
        return (
            f"Triton builds its launcher with Python.h, missing in {folders[0]}; install Python's headers (python3-dev)"
        )
    return None


@triton.jit
def accumulator(p, ROWS: tl.constexpr, COLS: tl.constexpr, value):
    """A [ROWS, COLS] block of ``value`` in the type that ``p`` accumulates in: float64 for float64, else float32."""
    if p.dtype.element_ty == tl.float64:
        return tl.full([ROWS, COLS], value, tl.float64)
    else:
        return tl.full([ROWS, COLS], value, tl.float32)


@triton.jit
def divided(a, b):
    """a / b for b of at least one; in float64 by Newton steps, because the division is a call and costs stack."""
    if a.dtype == tl.float64:
        b = b.to(tl.float64)
        inverse = (1.0 / b.to(tl.float32)).to(tl.float64)
        inverse += inverse * (1.0 - b * inverse)
        q = a * inverse
        return q + (a - q * b) * inverse
    else:
        return a / b.to(a.dtype)


@triton.jit
def vector(p, i, m, default: tl.constexpr, ACC: tl.constexpr = tl.float32):
    """p[i], or ``default`` where there is no p."""
    if p is None:
        return tl.zeros_like(i).to(ACC) + default
    else:
        return tl.load(p + i, m, default).to(ACC)


@triton.jit
def inverse_deviation(p_var, i, m, eps, ACC: tl.constexpr = tl.float32):
    """1 / sqrt(var + eps), or one where there is no norm."""
    if p_var is None:
        return tl.zeros_like(i).to(ACC) + 1.0
    else:
        return tl.rsqrt(tl.load(p_var + i, m, 1.0).to(ACC) + eps)


def tile(channels_last: bool, c: int, pixels: int, elements: int = 2048) -> tuple[int, int]:
    """(BP, BC): a block of about ``elements``, wide along whichever of pixels and channels is contiguous."""
    if channels_last:
        bc = min(64, triton.next_power_of_2(c))
        return min(elements // bc, max(16, triton.next_power_of_2(pixels))), bc
    bp = min(256, max(16, triton.next_power_of_2(pixels)))
    return bp, min(elements // bp, triton.next_power_of_2(c))


def arch(x: torch.Tensor) -> int:
    """Compute capability times ten of x's device; that of ``COMPILED_FOR`` off the GPU."""
    return capability(x.device) if x.is_cuda else COMPILED_FOR
