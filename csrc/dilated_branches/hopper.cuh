// What the Hopper bodies of dilated_branches share: a CTA's roles, its pipeline, its products and the way out.
//
// Two CTAs form a cluster and walk the same steps side by side, one tile of 128 x COLS outputs each. In a CTA one
// producer warpgroup, of which one thread issues TMA loads, fills a ring of four stages, 64 deep each; two consumer
// warpgroups multiply 64 rows each (wgmma). The tiles of a pair have one operand in common: each CTA loads half of it,
// multicast to both, so a stage is free once the consumers of both have released it.
#pragma once

#include "common/ptx/cluster.cuh"
#include "common/ptx/fence.cuh"
#include "common/ptx/ldmatrix.cuh"
#include "common/ptx/mbarrier.cuh"
#include "common/ptx/tma.cuh"
#include "common/ptx/warp.cuh"
#include "common/ptx/wgmma.cuh"
#include "common/scalar.cuh"

namespace pk {

/// A CTA and its tile. Operands pass through shared memory in boxes of 64 rows of 128 bytes with 128-byte swizzling, as
/// TMA loads leave them. K-major: a row is a line of the operand, 64 deep. MN-major (A_MN, B_MN): a row is one step of
/// depth, 64 lines wide.
template <class T_, int COLS_, bool A_MN_, bool B_MN_>
struct HopperCta {
    using T = T_;
    static constexpr int ROWS = 128, COLS = COLS_, DEPTH = 64, STAGES = 4;
    static constexpr bool A_MN = A_MN_, B_MN = B_MN_;
    static constexpr int GROUP = 128, WORKERS = 2 * GROUP, THREADS = WORKERS + GROUP;
    static constexpr int COUNT = COLS / 2;  // accumulators of one of the 128 threads that hold 64 x COLS
    static constexpr int A_BOXES = ROWS / 64, B_BOXES = COLS / 64;
    static constexpr uint32_t BOX_BYTES = 64 * 128, A_BYTES = A_BOXES * BOX_BYTES, B_BYTES = B_BOXES * BOX_BYTES;
    static constexpr uint32_t STAGE_BYTES = A_BYTES + B_BYTES;

    /// The consumers' threads, behind the producer's.
    static __device__ __forceinline__ int worker() { return threadIdx.x - GROUP; }
    static __device__ __forceinline__ void sync() { barrier_sync<1, WORKERS>(); }

    /// The descriptor of 16 of the 64 steps of depth in the boxes from s_boxes on. From one span of 64 lines to the
    /// next lies a box, from 8 rows of a box to the next 8 lie 1,024 bytes.
    template <bool MN>
    static __device__ __forceinline__ uint64_t operand(uint32_t s_boxes, int k16) {
        return wgmma_operand(s_boxes + (MN ? 16 * 128 : 32) * k16, MN ? BOX_BYTES : 16, 1024, Swizzle::b128);
    }
};

/// The pipeline: the stages in shared memory, from a 1024-byte boundary on because the swizzle acts on addresses, their
/// barriers, and this thread's place. G::EPILOGUE bytes lie behind the stages.
template <class G>
struct HopperRing {
    static constexpr size_t SHARED = 1008 + G::STAGES * G::STAGE_BYTES + G::EPILOGUE + 2 * G::STAGES * 8;
    static_assert(SHARED <= 227 * 1024);

    uint32_t stages, full, empty;
    unsigned char* s_epilogue;
    int stage = 0;
    uint32_t parity = 0;  // of the round that passes through the stage

    __device__ HopperRing() {
        unsigned char* s_base = shared_memory<unsigned char>();
        s_base += (1024 - shared_address(s_base) % 1024) % 1024;
        stages = shared_address(s_base);
        s_epilogue = s_base + G::STAGES * G::STAGE_BYTES;
        full = shared_address(s_epilogue + G::EPILOGUE);
        empty = full + 8 * G::STAGES;
    }

    /// By all threads of both CTAs.
    __device__ __forceinline__ void start() const {
        if (threadIdx.x == 0) {
            for (int i = 0; i < G::STAGES; ++i) {
                mbarrier_init(full + 8 * i, 1);
                mbarrier_init(empty + 8 * i, 2 * G::WORKERS / 32);  // every consumer warp of both CTAs
            }
            fence_mbarrier_init();
        }
        cluster_arrive();
        cluster_wait();
    }

    __device__ __forceinline__ uint32_t a() const { return stages + stage * G::STAGE_BYTES; }
    __device__ __forceinline__ uint32_t b() const { return a() + G::A_BYTES; }
    __device__ __forceinline__ void advance() {
        if (++stage == G::STAGES) stage = 0, parity ^= 1;
    }

    /// Producer: once the stage is free in both CTAs, announce its bytes; the barrier that counts them.
    __device__ __forceinline__ uint32_t acquire() const {
        mbarrier_wait(empty + 8 * stage, parity ^ 1);
        mbarrier_arrive_expect(full + 8 * stage, G::STAGE_BYTES);
        return full + 8 * stage;
    }

    /// Consumer warp: done with a stage, for the producers of both CTAs.
    __device__ __forceinline__ void release(int which) const {
        const uint32_t lane = threadIdx.x % 32;
        if (lane < 2) mbarrier_arrive_cluster(map_to_block(empty + 8 * which, lane));
    }
};

/// Where a box goes: here, or to both CTAs of the pair.
struct BoxTarget {
    uint32_t s_to, full;
    bool both;
    template <class... At>
    __device__ __forceinline__ void load(const TensorMap& map, At... at) const {
        if (both) {
            tma_load_multicast(s_to, map, full, 3, at...);
        } else {
            tma_load(s_to, map, full, at...);
        }
    }
};

/// Producer: one stage. load_a(target, box) and load_b(target, box) load one box each: all of the CTA's own operand,
/// and this CTA's half of the one that the pair shares.
template <class G, class LoadA, class LoadB>
__device__ __forceinline__ void load_stage(HopperRing<G>& ring, int rank, bool shares_b, LoadA&& load_a,
                                           LoadB&& load_b) {
    const uint32_t full = ring.acquire();
#pragma unroll
    for (int box = 0; box < G::A_BOXES; ++box)
        if (shares_b || box / (G::A_BOXES / 2) == rank)
            load_a(BoxTarget{ring.a() + box * G::BOX_BYTES, full, !shares_b}, box);
#pragma unroll
    for (int box = 0; box < G::B_BOXES; ++box)
        if (!shares_b || box / (G::B_BOXES / 2) == rank)
            load_b(BoxTarget{ring.b() + box * G::BOX_BYTES, full, shares_b}, box);
    ring.advance();
}

/// Consumer: this warpgroup's 64 rows of the next `steps` stages, at least one; it starts from zero. A stage is free
/// once the products that follow it are under way.
template <class G>
__device__ __forceinline__ void multiply_stages(HopperRing<G>& ring, int steps, float (&r_acc)[G::COUNT]) {
    const uint32_t rows = G::worker() / G::GROUP * G::BOX_BYTES;
    int before = 0;
    for (int step = 0; step < steps; ++step, ring.advance()) {
        mbarrier_wait(ring.full + 8 * ring.stage, ring.parity);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < G::DEPTH / 16; ++k)
            wgmma<G::COLS, typename G::T, G::A_MN, G::B_MN>(r_acc, G::template operand<G::A_MN>(ring.a() + rows, k),
                                                            G::template operand<G::B_MN>(ring.b(), k),
                                                            step > 0 || k > 0);
        wgmma_commit();
        if (step > 0) {
            wgmma_wait<1>();
            ring.release(before);
        }
        before = ring.stage;
    }
    wgmma_wait<0>();
    ring.release(before);
}

/// A CTA from start to end: produce() by one thread, consume() by the consumer warpgroups.
template <class G, class Produce, class Consume>
__device__ __forceinline__ void run_roles(const HopperRing<G>& ring, Produce&& produce, Consume&& consume) {
    using Registers = RegisterSplit<56, G::GROUP, 224, G::WORKERS>;
    ring.start();
    wait_for_earlier_grids();  // what comes before overlaps the end of the launch that wrote the operands
    if (threadIdx.x < G::GROUP) {
        Registers::few();
        if (threadIdx.x == 0) produce();
        __syncwarp();  // the barrier below is one of whole warps
    } else {
        Registers::many();
        consume();
    }
    let_later_grids_begin();
    cluster_arrive();
    cluster_wait();  // the other CTA still delivers and arrives here
}

/// Two neighbouring sums, rounded, as one register of an 8 x 8 matrix.
template <class T>
__device__ __forceinline__ uint32_t packed(float low, float high) {
    const T two[2] = {narrow<T>(low), narrow<T>(high)};
    uint32_t bits;
    memcpy(&bits, two, sizeof(bits));
    return bits;
}

/// Bytes of the panels below: two of 64 rows x 64 columns for each consumer warpgroup.
template <class G>
inline constexpr size_t panel_bytes = 2 * 2 * G::BOX_BYTES;

/// Epilogue by TMA: this warpgroup's 64 x COLS sums leave through shared memory in panels of 64 columns, swizzled so
/// that neither side has bank conflicts. One thread calls store(panel, shared address) for each; while a panel leaves,
/// the next one is written to the other buffer.
template <class G, class Store>
__device__ __forceinline__ void store_panels(unsigned char* s_panels, const float (&r_acc)[G::COUNT], Store&& store) {
    const int group = G::worker() / G::GROUP, warp = G::worker() / 32 % 4, lane = threadIdx.x % 32;
    const bool leads = G::worker() % G::GROUP == 0;
    const auto sync = [&] { group == 0 ? barrier_sync<2, G::GROUP>() : barrier_sync<3, G::GROUP>(); };
    const int row = 16 * warp + lane % 16;  // whose 16 bytes this lane addresses
#pragma unroll
    for (int panel = 0; panel < G::COLS / 64; ++panel) {
        unsigned char* s_panel = s_panels + (2 * group + panel % 2) * G::BOX_BYTES;
        if (leads) tma_store_wait_read<1>();
        sync();
#pragma unroll
        for (int q = 0; q < 4; ++q) {  // 16 columns: four matrices, rows 0 and 8 on, then columns 8 on
            const float* r = r_acc + 4 * (8 * panel + 2 * q);
            const uint32_t matrices[] = {packed<typename G::T>(r[0], r[1]), packed<typename G::T>(r[2], r[3]),
                                         packed<typename G::T>(r[4], r[5]), packed<typename G::T>(r[6], r[7])};
            stmatrix_x4(s_panel + row * 128 + ((2 * q + lane / 16) ^ (row % 8)) * 16, matrices);
        }
        fence_proxy_async_shared();
        sync();
        if (leads) {
            store(panel, shared_address(s_panel));
            tma_store_commit();
        }
    }
}

/// Before shared memory goes, by the consumers.
template <class G>
__device__ __forceinline__ void finish_stores() {
    if (G::worker() % G::GROUP == 0) tma_store_wait<0>();
}

/// Epilogue without boxes: body(row, for_each_col) for both rows in which this thread holds sums, where
/// for_each_col(store) calls store(col, sum).
template <class G, class Body>
__device__ __forceinline__ void for_each_row(const float (&r_acc)[G::COUNT], Body&& body) {
    const int row = G::worker() / 32 * 16 + threadIdx.x % 32 / 4, col = threadIdx.x % 4 * 2;
#pragma unroll
    for (int lower = 0; lower < 2; ++lower)
        body(row + 8 * lower, [&](auto&& store) {
#pragma unroll
            for (int i = 0; i < G::COUNT / 2; ++i) store(i / 2 * 8 + col + i % 2, r_acc[i / 2 * 4 + 2 * lower + i % 2]);
        });
}

}  // namespace pk
