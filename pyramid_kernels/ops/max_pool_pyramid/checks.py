"""Sizes of pools: which ``max_pool_pyramid`` takes, and which its kernels."""

from __future__ import annotations

from typing import Any

#: As csrc/max_pool_pyramid/max_pool_pyramid.h has them. A place in a window of 15 x 15 is one byte; a tile and the
#: pixels that it reaches stay in shared memory.
MAX_LEVELS, MAX_SIZE, MAX_REACH = 8, 15, 12


def check_kernel_sizes(kernel_sizes: Any, cascade: bool) -> list[int]:
    """``kernel_sizes`` as a non-empty list of odd ints, ascending, or equal in a cascade; the default for None."""
    if kernel_sizes is None:
        return [5, 5, 5] if cascade else [5, 9, 13]
    if not isinstance(kernel_sizes, list | tuple):
        raise TypeError(f"kernel_sizes must be a list or tuple of odd ints, got {type(kernel_sizes).__name__}")
    if not kernel_sizes:
        raise ValueError("kernel_sizes must not be empty; give at least one, such as (5, 9, 13)")
    if not all(isinstance(k, int) and not isinstance(k, bool) for k in kernel_sizes):
        raise TypeError(f"kernel_sizes must hold ints, got {tuple(kernel_sizes)}")
    if not all(k > 0 and k % 2 for k in kernel_sizes):
        raise ValueError(f"kernel_sizes must be odd and positive, got {tuple(kernel_sizes)}")
    if cascade and len(set(kernel_sizes)) > 1:
        raise ValueError(
            f"kernel_sizes are the pools in series where cascade=True, and must be equal, got {tuple(kernel_sizes)}; "
            "use (5, 5, 5) for the windows 5, 9, 13"
        )
    if not cascade and any(a >= b for a, b in zip(kernel_sizes, kernel_sizes[1:], strict=False)):
        raise ValueError(
            f"kernel_sizes must ascend, got {tuple(kernel_sizes)}; order='descending' puts the largest window first, "
            "cascade=True takes equal pools in series"
        )
    return list(kernel_sizes)


def beyond(kernel_sizes: list[int], cascade: bool) -> str | None:
    """Which limit of the kernels is exceeded; of comparisons alone, which tracing generalises."""
    if len(kernel_sizes) > MAX_LEVELS:
        return f"at most {MAX_LEVELS} levels"
    if any(k > MAX_SIZE for k in kernel_sizes):
        return f"pools of at most {MAX_SIZE}"
    if cascade and sum(k // 2 for k in kernel_sizes) > MAX_REACH:
        return f"windows of at most {2 * MAX_REACH + 1} in a cascade"
    return None
