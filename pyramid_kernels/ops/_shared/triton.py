"""What every Triton backend shares: when it can run, accumulator types, tile sizes."""

from __future__ import annotations

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
    if problem.arch < 80:
        return f"needs compute capability 8.0 or newer, got {problem.arch / 10:.1f}"
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
