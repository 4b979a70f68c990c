// The host's side of common/ptx: what each wrapper calls where there is no GPU. Addresses are shared addresses: an
// offset in the block's own memory, with mapa's block number above.
#pragma once

#include <cstdint>

#include "hostsim/sync.h"
#include "hostsim/tensor_core.h"

namespace hostsim {

/// How often threads issued these instructions, for tests of what is multiplied and what is skipped.
struct Counts {
    int64_t mma = 0, wgmma = 0, tma_loads = 0;
};
inline Counts counts;

uint32_t shared_address(const void* pointer, Site site);

/// A flag must be down again when the launch ends.
void raise_flag(uint64_t* flag, uint64_t value, Site site);
/// Blocks run one after another: a flag that no earlier one has raised stays down for ever.
void wait_for_flag(const uint64_t* flag, uint64_t value, Site site);

// Ampere's copies and matrix instructions.
void cp_async(uint32_t to, const void* from, int bytes, int valid, Site site);
void cp_async_commit();
void cp_async_wait(int groups);
void ldmatrix(uint32_t* r, int count, bool transposed, uint32_t address, Site site);
void stmatrix(const uint32_t* r, int count, bool transposed, uint32_t address, Site site);
void mma_m16n8k16(Element element, float* d, const uint32_t* a, const uint32_t* b, Site site);
void mma_m16n8k8_tf32(float* d, const uint32_t* a, const uint32_t* b, Site site);
bool elect(Site site);

// Hopper's barriers in shared memory.
void mbarrier_init(uint32_t barrier, uint32_t count, Site site);
void mbarrier_invalidate(uint32_t barrier, Site site);
void mbarrier_arrive(uint32_t barrier, Site site);
void mbarrier_expect(uint32_t barrier, uint32_t bytes, Site site);
/// Returns once the phase of this parity has completed.
void mbarrier_wait(uint32_t barrier, uint32_t parity, Site site);
bool mbarrier_test(uint32_t barrier, uint32_t parity, Site site);

// Bulk copies of boxes; `blocks` has a bit per block of the cluster, or is 0 for the running one.
void tma_load(uint32_t to, const void* map, uint32_t barrier, int rank, const int* coordinates, uint32_t blocks,
              Site site);
void tma_store(const void* map, uint32_t from, int rank, const int* coordinates, Site site);
void tma_store_commit();
void tma_store_wait(int groups);

// Warpgroup matrix instructions.
void wgmma_fence(Site site);
void wgmma(const Wgmma& instruction, float* d, bool accumulate, Site site);
void wgmma_commit(Site site);
void wgmma_wait(int groups, Site site);

void fence_proxy_async();
void fence_mbarrier_init();

/// From here on this thread of an early launch may touch global memory.
void wait_for_earlier_grids();

// Clusters.
uint32_t cluster_rank();
uint32_t cluster_blocks();
uint32_t map_to_block(uint32_t address, uint32_t rank, Site site);
void cluster_arrive(Site site);
void cluster_wait(Site site);

}  // namespace hostsim
