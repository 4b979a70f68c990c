"""Time and memory of a call: interleaved samples, graph replay, CPU time, launches, peak memory, a device's floors."""

from __future__ import annotations

import ctypes
import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch

# The profiler, which counts a CPU's allocations, reports its own start and stop on stderr otherwise.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

Call = Callable[[], object]


class Stats(NamedTuple):
    """Seconds."""

    median: float
    p20: float
    p80: float

    @staticmethod
    def of(samples: list[float]) -> Stats:
        if len(samples) == 1:
            return Stats(*samples * 3)
        cuts = statistics.quantiles(samples, n=10, method="inclusive")
        return Stats(statistics.median(samples), cuts[1], cuts[7])


def interleaved(
    calls: Mapping[str, Call], device: str, rounds: int, budget: float, cold: bool = False, least: int = 3
) -> dict[str, list[float]]:
    """Seconds of every call, one sample of each per round: a drifting clock then slows all of them alike.

    At most ``rounds`` rounds and about ``budget`` seconds, but ``least`` rounds in any case; ``cold`` empties a GPU's
    L2 first.
    """
    end = time.perf_counter() + budget
    first = {name: [sample(call, device, cold)] for name, call in calls.items()}
    if least == 1 and time.perf_counter() > end:
        return first  # so long a call takes no notice of its first run
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + budget
    names = list(calls)
    for i in range(rounds):
        if i >= least and time.perf_counter() > end:
            break
        # Whoever runs second finds the caches its predecessor left: take turns.
        for name in names if i % 2 else reversed(names):
            samples[name].append(sample(calls[name], device, cold))
    return samples


@functools.lru_cache
def keep_freed_memory() -> None:
    """Let glibc keep what is freed; else it maps every large result anew, which may cost more than what fills it."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, mmap_max = -1, -4
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(mmap_max, 0)


def paired_ratio(theirs: list[float], ours: list[float]) -> float:
    """Median over rounds of their time over ours: above 1, ours is faster."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def sample(call: Call, device: str, cold: bool = False) -> float:
    """Seconds of one call: between events on a GPU, wall time on a CPU."""
    if device == "cpu":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    if cold:
        _l2_filler().zero_()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    # A head start for the CPU, so that launch gaps of short calls do not count as GPU time.
    torch.cuda._sleep(1_000_000)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


@functools.lru_cache
def _l2_filler() -> torch.Tensor:
    return torch.empty(256 << 20, dtype=torch.uint8, device="cuda")


def wall_time(call: Call, repeats: int = 20) -> float:
    """Median seconds per call on a GPU, launches and one synchronisation included."""

    def finished() -> None:
        call()
        torch.cuda.synchronize()

    return cpu_time(finished, repeats)


def cpu_time(call: Call, repeats: int = 50) -> float:
    """Median seconds that one call keeps the CPU, the GPU running behind."""
    samples = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def graph_time(call: Call, repeats: int = 20) -> float:
    """Median seconds of replaying the call as a CUDA graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return statistics.median(sample(graph.replay, "cuda") for _ in range(repeats))


def gpu_launches(call: Call) -> int:
    """Kernels, copies and fills that one call launches."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events() or [])


def peak_memory(call: Call, device: str) -> int:
    """Bytes that one call has allocated at its peak, above what was allocated before it."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with (
        without("Memory block of unknown size"),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile,
    ):
        call()
    now = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


@contextmanager
def without(noise: str) -> Iterator[None]:
    """Drop the lines with ``noise`` from what is written to stderr, C++ included; whatever else comes follows later."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            written.seek(0)
            rest = b"".join(line for line in written if noise.encode() not in line)
            os.write(2, rest)


class Floors(NamedTuple):
    """What this device reaches: bytes per second of a copy (read + write), FLOP per second of a matrix product."""

    copy: float
    matmul: float


@functools.lru_cache
def floors(device: str, dtype: torch.dtype) -> Floors:
    """Measured on random data, best of many."""
    big, n = (1 << 28, 8192) if device != "cpu" else (1 << 24, 1024)
    source = torch.randn(big, device=device).to(dtype)
    target = torch.empty_like(source)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)

    def best(call: Call) -> float:
        return min(interleaved({"": call}, device, 20, 5.0)[""])

    copy = 2 * source.numel() * source.element_size() / best(lambda: target.copy_(source))
    return Floors(copy, 2 * n**3 / best(lambda: torch.mm(a, b, out=out)))
