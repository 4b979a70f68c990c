"""What the kernels of ``max_pool_pyramid`` take."""

from __future__ import annotations

#: As csrc/max_pool_pyramid/max_pool_pyramid.h has them. A place in a window of 15 x 15 is one byte; a tile and the
#: pixels that it reaches stay in shared memory.
MAX_LEVELS, MAX_SIZE, MAX_REACH = 8, 15, 12


def beyond(kernel_sizes: list[int], cascade: bool) -> str | None:
    """Which limit is exceeded; of comparisons alone, which tracing generalises."""
    if len(kernel_sizes) > MAX_LEVELS:
        return f"at most {MAX_LEVELS} levels"
    if any(k > MAX_SIZE for k in kernel_sizes):
        return f"pools of at most {MAX_SIZE}"
    if cascade and sum(k // 2 for k in kernel_sizes) > MAX_REACH:
        return f"windows of at most {2 * MAX_REACH + 1} in a cascade"
    return None
