// mbarrier (sm_90): 8 bytes of shared memory whose phase completes when all arrivals and all bytes announced have come.
// A wait names the parity of the phase it waits for: 0 for the first.
#pragma once

#include "common/ptx/site.cuh"

namespace pk {

/// By one thread; the others may use it after fence_mbarrier_init and a barrier of the block or cluster.
__device__ __forceinline__ void mbarrier_init(uint32_t s_barrier, uint32_t arrivals PK_SITE) {
#if defined(__CUDACC__)
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(s_barrier), "r"(arrivals) : "memory");
#else
    hostsim::mbarrier_init(s_barrier, arrivals, site);
#endif
}

__device__ __forceinline__ void mbarrier_invalidate(uint32_t s_barrier PK_SITE) {
#if defined(__CUDACC__)
    asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(s_barrier) : "memory");
#else
    hostsim::mbarrier_invalidate(s_barrier, site);
#endif
}

__device__ __forceinline__ void mbarrier_arrive(uint32_t s_barrier PK_SITE) {
#if defined(__CUDACC__)
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(s_barrier) : "memory");
#else
    hostsim::mbarrier_arrive(s_barrier, site);
#endif
}

/// Arrive at a barrier of another block of the cluster, whose address map_to_block gave. It orders what wgmma has read,
/// not this thread's stores for that block: release.cluster would be a fence of the whole GPU, at every step of a ring.
__device__ __forceinline__ void mbarrier_arrive_cluster(uint32_t s_barrier PK_SITE) {
#if defined(__CUDACC__)
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(s_barrier) : "memory");
#else
    hostsim::mbarrier_arrive(s_barrier, site);
#endif
}

/// Announce `bytes` of bulk copies for this phase, without arriving.
__device__ __forceinline__ void mbarrier_expect(uint32_t s_barrier, uint32_t bytes PK_SITE) {
#if defined(__CUDACC__)
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(s_barrier), "r"(bytes) : "memory");
#else
    hostsim::mbarrier_expect(s_barrier, bytes, site);
#endif
}

__device__ __forceinline__ void mbarrier_arrive_expect(uint32_t s_barrier, uint32_t bytes PK_SITE) {
#if defined(__CUDACC__)
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(s_barrier), "r"(bytes) : "memory");
#else
    hostsim::mbarrier_expect(s_barrier, bytes, site);
    hostsim::mbarrier_arrive(s_barrier, site);
#endif
}

/// Whether the phase of this parity has completed, now.
__device__ __forceinline__ bool mbarrier_test(uint32_t s_barrier, uint32_t parity PK_SITE) {
#if defined(__CUDACC__)
    uint32_t done;
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(s_barrier), "r"(parity)
        : "memory");
    return done != 0;
#else
    return hostsim::mbarrier_test(s_barrier, parity, site);
#endif
}

/// The same after sleeping for a while where it has not.
__device__ __forceinline__ bool mbarrier_try_wait(uint32_t s_barrier, uint32_t parity PK_SITE) {
#if defined(__CUDACC__)
    uint32_t done;
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(s_barrier), "r"(parity)
        : "memory");
    return done != 0;
#else
    hostsim::mbarrier_wait(s_barrier, parity, site);
    return true;
#endif
}

__device__ __forceinline__ void mbarrier_wait(uint32_t s_barrier, uint32_t parity PK_SITE) {
#if defined(__CUDACC__)
    while (!mbarrier_try_wait(s_barrier, parity)) {
    }
#else
    hostsim::mbarrier_wait(s_barrier, parity, site);
#endif
}

}  // namespace pk
