// Clusters (sm_90): blocks that run together and reach each other's shared memory.
#pragma once

#include "common/ptx/site.cuh"

namespace pk {

__device__ __forceinline__ uint32_t cluster_rank() {
#if defined(__CUDACC__)
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
#else
    return hostsim::cluster_rank();
#endif
}

__device__ __forceinline__ uint32_t cluster_blocks() {
#if defined(__CUDACC__)
    uint32_t blocks;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
    return blocks;
#else
    return hostsim::cluster_blocks();
#endif
}

/// The address of another block's variable, from that of one's own.
__device__ __forceinline__ uint32_t map_to_block(uint32_t s_address, uint32_t rank PK_SITE) {
#if defined(__CUDACC__)
    uint32_t mapped;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(s_address), "r"(rank));
    return mapped;
#else
    return hostsim::map_to_block(s_address, rank, site);
#endif
}

__device__ __forceinline__ void cluster_arrive(PK_ONLY_SITE) {
#if defined(__CUDACC__)
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#else
    hostsim::cluster_arrive(site);
#endif
}

__device__ __forceinline__ void cluster_wait(PK_ONLY_SITE) {
#if defined(__CUDACC__)
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
    hostsim::cluster_wait(site);
#endif
}

}  // namespace pk
