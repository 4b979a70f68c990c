// What steers warps: an elected lane, barriers of part of a block, the register budget, dependent grids.
#pragma once

#include "common/ptx/site.cuh"

namespace pk {

/// True for one lane of a warp whose lanes all call it (sm_90).
__device__ __forceinline__ bool elect_one(PK_ONLY_SITE) {
#if defined(__CUDACC__)
    uint32_t elected;
    asm volatile(
        "{\n.reg .pred p;\n"
        "elect.sync _|p, 0xFFFFFFFF;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(elected));
    return elected != 0;
#else
    return hostsim::elect(site);
#endif
}

/// Barrier `Id` (0 is __syncthreads) of the first `Threads` to come: whole warps. Constants, or all 16 are reserved.
template <int Id, int Threads>
__device__ __forceinline__ void barrier_sync(PK_ONLY_SITE) {
    static_assert(0 < Id && Id < 16 && Threads % 32 == 0);
#if defined(__CUDACC__)
    asm volatile("barrier.cta.sync.aligned %0, %1;" ::"n"(Id), "n"(Threads) : "memory");
#else
    hostsim::barrier("barrier_sync", Id, Threads, false, site);
#endif
}

/// Arrive there without waiting.
template <int Id, int Threads>
__device__ __forceinline__ void barrier_arrive(PK_ONLY_SITE) {
    static_assert(0 < Id && Id < 16 && Threads % 32 == 0);
#if defined(__CUDACC__)
    asm volatile("barrier.cta.arrive.aligned %0, %1;" ::"n"(Id), "n"(Threads) : "memory");
#else
    hostsim::barrier_arrive(Id, Threads, site);
#endif
}

/// How the warpgroups of a block that is alone on its multiprocessor share its registers (sm_90a): each warpgroup calls
/// few() or many() with all its warps. A thread starts with as many as the block's size leaves it.
template <int Few, int FewThreads, int Many, int ManyThreads>
struct RegisterSplit {
    static constexpr int THREADS = FewThreads + ManyThreads, START = smaller(255, 65536 / THREADS) / 8 * 8;
    static_assert(24 <= Few && Few <= START && Few % 8 == 0 && FewThreads % 128 == 0);
    static_assert(START <= Many && Many <= 256 && Many % 8 == 0 && ManyThreads % 128 == 0);
    static_assert(Few * FewThreads + Many * ManyThreads <= START * THREADS,
                  "more registers than the block has: many() would wait for ever");

    static __device__ __forceinline__ void few() {
#if defined(__CUDACC__)
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Few));
#endif
    }
    static __device__ __forceinline__ void many() {
#if defined(__CUDACC__)
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Many));
#endif
    }
};

/// Wait until the grids this one depends on have finished, where it was launched to overlap them (sm_90): by every
/// thread, before it touches global memory.
__device__ __forceinline__ void wait_for_earlier_grids() {
#if defined(__CUDACC__)
    asm volatile("griddepcontrol.wait;" ::: "memory");
#else
    hostsim::wait_for_earlier_grids();
#endif
}

/// Let the grids that depend on this one begin once all blocks have called it.
__device__ __forceinline__ void let_later_grids_begin() {
#if defined(__CUDACC__)
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace pk
