// cp.async (sm_80): 16 bytes from global to shared memory, past the registers, awaited by group.
#pragma once

#include "common/ptx/site.cuh"

namespace pk {

/// Copy the first `bytes` of 16 from g to s and fill the rest with zeros; both are aligned to 16 bytes.
__device__ __forceinline__ void cp_async_16(void* s, const void* g, int bytes PK_SITE) {
#if defined(__CUDACC__)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(s)), "l"(g), "r"(bytes)
                 : "memory");
#else
    hostsim::cp_async(shared_address(s, site), g, 16, bytes, site);
#endif
}

__device__ __forceinline__ void cp_async_commit() {
#if defined(__CUDACC__)
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    hostsim::cp_async_commit();
#endif
}

/// Wait until at most N of this thread's groups are under way.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
#if defined(__CUDACC__)
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#else
    hostsim::cp_async_wait(N);
#endif
}

}  // namespace pk
