// Bulk copies of boxes (sm_90): one thread asks, the copy engine moves. Coordinates are elements of the tensor,
// dimension 0 first, and may lie outside: what is read there is zero, what would be written there is not. A load's full
// size counts as bytes of its mbarrier, the part outside included.
#pragma once

#include "common/ptx/site.cuh"
#include "common/tensor_map.h"

namespace pk {

/// Load the box at these coordinates to s_to, 128-byte aligned (1024 with 128-byte swizzling).
__device__ __forceinline__ void tma_load(uint32_t s_to, const TensorMap& map, uint32_t s_barrier, int c0,
                                         int c1 PK_SITE) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
        "[%2];" ::"r"(s_to),
        "l"(&map), "r"(s_barrier), "r"(c0), "r"(c1)
        : "memory");
#else
    const int at[] = {c0, c1};
    hostsim::tma_load(s_to, &map, s_barrier, 2, at, 0, site);
#endif
}

__device__ __forceinline__ void tma_load(uint32_t s_to, const TensorMap& map, uint32_t s_barrier, int c0, int c1,
                                         int c2 PK_SITE) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
        "[%2];" ::"r"(s_to),
        "l"(&map), "r"(s_barrier), "r"(c0), "r"(c1), "r"(c2)
        : "memory");
#else
    const int at[] = {c0, c1, c2};
    hostsim::tma_load(s_to, &map, s_barrier, 3, at, 0, site);
#endif
}

__device__ __forceinline__ void tma_load(uint32_t s_to, const TensorMap& map, uint32_t s_barrier, int c0, int c1,
                                         int c2, int c3 PK_SITE) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
        "%6}], [%2];" ::"r"(s_to),
        "l"(&map), "r"(s_barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
        : "memory");
#else
    const int at[] = {c0, c1, c2, c3};
    hostsim::tma_load(s_to, &map, s_barrier, 4, at, 0, site);
#endif
}

__device__ __forceinline__ void tma_load(uint32_t s_to, const TensorMap& map, uint32_t s_barrier, int c0, int c1,
                                         int c2, int c3, int c4 PK_SITE) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, "
        "%7}], [%2];" ::"r"(s_to),
        "l"(&map), "r"(s_barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
        : "memory");
#else
    const int at[] = {c0, c1, c2, c3, c4};
    hostsim::tma_load(s_to, &map, s_barrier, 5, at, 0, site);
#endif
}

/// Load it once into every block of the cluster whose bit is set, at the same addresses in each.
__device__ __forceinline__ void tma_load_multicast(uint32_t s_to, const TensorMap& map, uint32_t s_barrier,
                                                   uint16_t blocks, int c0, int c1 PK_SITE) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
        "[%1, {%4, %5}], [%2], %3;" ::"r"(s_to),
        "l"(&map), "r"(s_barrier), "h"(blocks), "r"(c0), "r"(c1)
        : "memory");
#else
    const int at[] = {c0, c1};
    hostsim::tma_load(s_to, &map, s_barrier, 2, at, blocks, site);
#endif
}

__device__ __forceinline__ void tma_load_multicast(uint32_t s_to, const TensorMap& map, uint32_t s_barrier,
                                                   uint16_t blocks, int c0, int c1, int c2 PK_SITE) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
        "[%1, {%4, %5, %6}], [%2], %3;" ::"r"(s_to),
        "l"(&map), "r"(s_barrier), "h"(blocks), "r"(c0), "r"(c1), "r"(c2)
        : "memory");
#else
    const int at[] = {c0, c1, c2};
    hostsim::tma_load(s_to, &map, s_barrier, 3, at, blocks, site);
#endif
}

__device__ __forceinline__ void tma_load_multicast(uint32_t s_to, const TensorMap& map, uint32_t s_barrier,
                                                   uint16_t blocks, int c0, int c1, int c2, int c3 PK_SITE) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
        "[%1, {%4, %5, %6, %7}], [%2], %3;" ::"r"(s_to),
        "l"(&map), "r"(s_barrier), "h"(blocks), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
        : "memory");
#else
    const int at[] = {c0, c1, c2, c3};
    hostsim::tma_load(s_to, &map, s_barrier, 4, at, blocks, site);
#endif
}

__device__ __forceinline__ void tma_load_multicast(uint32_t s_to, const TensorMap& map, uint32_t s_barrier,
                                                   uint16_t blocks, int c0, int c1, int c2, int c3, int c4 PK_SITE) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
        "[%1, {%4, %5, %6, %7, %8}], [%2], %3;" ::"r"(s_to),
        "l"(&map), "r"(s_barrier), "h"(blocks), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
        : "memory");
#else
    const int at[] = {c0, c1, c2, c3, c4};
    hostsim::tma_load(s_to, &map, s_barrier, 5, at, blocks, site);
#endif
}

/// Store a box to these coordinates.
__device__ __forceinline__ void tma_store(const TensorMap& map, uint32_t s_from, int c0, int c1 PK_SITE) {
#if defined(__CUDACC__)
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
                 "r"(s_from), "r"(c0), "r"(c1)
                 : "memory");
#else
    const int at[] = {c0, c1};
    hostsim::tma_store(&map, s_from, 2, at, site);
#endif
}

__device__ __forceinline__ void tma_store(const TensorMap& map, uint32_t s_from, int c0, int c1, int c2 PK_SITE) {
#if defined(__CUDACC__)
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
                 "r"(s_from), "r"(c0), "r"(c1), "r"(c2)
                 : "memory");
#else
    const int at[] = {c0, c1, c2};
    hostsim::tma_store(&map, s_from, 3, at, site);
#endif
}

__device__ __forceinline__ void tma_store(const TensorMap& map, uint32_t s_from, int c0, int c1, int c2,
                                          int c3 PK_SITE) {
#if defined(__CUDACC__)
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(&map),
                 "r"(s_from), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
                 : "memory");
#else
    const int at[] = {c0, c1, c2, c3};
    hostsim::tma_store(&map, s_from, 4, at, site);
#endif
}

__device__ __forceinline__ void tma_store(const TensorMap& map, uint32_t s_from, int c0, int c1, int c2, int c3,
                                          int c4 PK_SITE) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(&map),
        "r"(s_from), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
        : "memory");
#else
    const int at[] = {c0, c1, c2, c3, c4};
    hostsim::tma_store(&map, s_from, 5, at, site);
#endif
}

__device__ __forceinline__ void tma_store_commit() {
#if defined(__CUDACC__)
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#else
    hostsim::tma_store_commit();
#endif
}

/// Wait until at most `Groups` of this thread's newest groups of stores still read shared memory.
template <int Groups>
__device__ __forceinline__ void tma_store_wait_read() {
#if defined(__CUDACC__)
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Groups) : "memory");
#else
    hostsim::tma_store_wait(Groups);
#endif
}

/// Wait until all but `Groups` groups are written.
template <int Groups>
__device__ __forceinline__ void tma_store_wait() {
#if defined(__CUDACC__)
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(Groups) : "memory");
#else
    hostsim::tma_store_wait(Groups);
#endif
}

/// Fetch a map, which lies in the kernel's parameters, ahead of its first use.
__device__ __forceinline__ void prefetch_tensor_map(const TensorMap& map) {
#if defined(__CUDACC__)
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#else
    (void)map;
#endif
}

}  // namespace pk
