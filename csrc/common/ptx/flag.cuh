// A 64-bit flag in global memory between blocks: what one wrote before raising it, the other reads after seeing it.
#pragma once

#include "common/ptx/site.cuh"

namespace pk {

__device__ __forceinline__ void store_release(uint64_t* g_flag, uint64_t value) {
#if defined(__CUDACC__)
    asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(g_flag), "l"(value) : "memory");
#else
    *g_flag = value;
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

}  // namespace pk
