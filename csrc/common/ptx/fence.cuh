// Fences between ordinary accesses and the asynchronous proxy (bulk copies, wgmma).
#pragma once

#include "common/ptx/site.cuh"

namespace pk {

/// Shared memory written by ordinary stores before, read by bulk copies or wgmma after a barrier.
__device__ __forceinline__ void fence_proxy_async_shared() {
#if defined(__CUDACC__)
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
    hostsim::fence_proxy_async();
#endif
}

/// The same for global memory too.
__device__ __forceinline__ void fence_proxy_async() {
#if defined(__CUDACC__)
    asm volatile("fence.proxy.async;" ::: "memory");
#else
    hostsim::fence_proxy_async();
#endif
}

/// mbarrier_init by this thread becomes visible to bulk copies and to the cluster.
__device__ __forceinline__ void fence_mbarrier_init() {
#if defined(__CUDACC__)
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
    hostsim::fence_mbarrier_init();
#endif
}

}  // namespace pk
