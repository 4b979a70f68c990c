// A 64-bit flag in global memory between blocks: what one wrote before raising it, the other reads after seeing it.
#pragma once

#include "common/ptx/site.cuh"

namespace pk {

/// Raise a flag; whoever waits for it lowers it, or a replay of the launch would find it raised.
__device__ __forceinline__ void store_release(uint64_t* g_flag, uint64_t value PK_SITE) {
#if defined(__CUDACC__)
    asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(g_flag), "l"(value) : "memory");
#else
    hostsim::raise_flag(g_flag, value, site);
#endif
}

__device__ __forceinline__ uint64_t load_acquire(const uint64_t* g_flag) {
#if defined(__CUDACC__)
    uint64_t value;
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(g_flag) : "memory");
    return value;
#else
    return *g_flag;
#endif
}

/// Wait until another block has raised the flag to `value`.
__device__ __forceinline__ void wait_for_flag(const uint64_t* g_flag, uint64_t value PK_SITE) {
#if defined(__CUDACC__)
    while (load_acquire(g_flag) != value) __nanosleep(64);
#else
    hostsim::wait_for_flag(g_flag, value, site);
#endif
}

}  // namespace pk
