// Forward of dilated_branches on Hopper, float16 and bfloat16: the same tiles and schedule, fed by the bulk copy
// engine.
//
// Owns: a tile is 128 pixels and COLS output channels of one branch. A live tap is a shifted box of x: the engine takes
// coordinates outside the map and fills zeros there. One warpgroup asks for boxes of x and of the weights, 64 channels
// deep, into a ring of four stages with 128-byte swizzling; two warpgroups multiply 64 pixels each (wgmma).
// A worker is a cluster of two blocks with one tile each, of the same weights: each block asks for half of them, and
// the engine delivers it to both. What leaves L2 falls from 48 to 32 KB a step. Shares and blocks that wait: as in
// dilated_branches_fwd.cuh. Shared bytes: ring 4 x (16,384 + COLS x 128), a panel of 32 columns on its way out 18,432,
// vectors and sums 4,096, barriers 64, and up to 1,008 to align the ring: 220,208 at COLS = 256. Bound: tensor cores.
#pragma once

#include "common/ptx/cluster.cuh"
#include "common/ptx/fence.cuh"
#include "common/ptx/mbarrier.cuh"
#include "common/ptx/tma.cuh"
#include "common/ptx/warp.cuh"
#include "common/ptx/wgmma.cuh"
#include "dilated_branches/epilogue.cuh"

namespace pk {

struct DilatedBranchesFwdSm90Params {
    DilatedBranchesFwdParams call;
    TensorMap x;                // [N, H, W, C], boxes of 64 channels of a tile's pixels
    TensorMap w[MAX_BRANCHES];  // [O, k * k, C], boxes of 64 channels of one tap of COLS / 2 outputs
};

template <class T_, int COLS_>
struct HopperTile {
    using T = T_;
    static constexpr int ROWS = 128, COLS = COLS_, DEPTH = 64, STAGES = 4;
    static constexpr int GROUP = 128, WORKERS = 2 * GROUP, THREADS = WORKERS + GROUP;
    static constexpr int COUNT = COLS / 2;  // accumulators of one of the 128 threads that hold 64 x COLS
    static constexpr uint32_t A_BYTES = ROWS * 128, B_BYTES = COLS * 128, STAGE_BYTES = A_BYTES + B_BYTES;
    static constexpr int PANEL = 32, PITCH = PANEL + 4;
    static constexpr size_t FLOATS = ROWS * PITCH + 3 * COLS + WORKERS;
    static constexpr size_t SHARED = 1008 + STAGES * STAGE_BYTES + FLOATS * sizeof(float) + 2 * STAGES * 8;

    static_assert(SHARED <= 227 * 1024);

    /// The threads that multiply, behind those that ask.
    static __device__ __forceinline__ int worker() { return threadIdx.x - GROUP; }
    static __device__ __forceinline__ void sync() { barrier_sync<1, WORKERS>(); }

    /// Columns [col0, col0 + PANEL) of the accumulators to s_panel [ROWS][PITCH].
    static __device__ __forceinline__ void spread(const float (&r_acc)[COUNT], int col0, float* s_panel) {
        const int lane = threadIdx.x % 32, row = worker() / 32 * 16 + lane / 4, col = lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < COUNT; i += 2) {
            const int panel = i / 4 * 8 - col0;
            if (0 <= panel && panel < PANEL)
                *reinterpret_cast<float2*>(s_panel + (row + i % 4 / 2 * 8) * PITCH + panel + col) =
                    make_float2(r_acc[i], r_acc[i + 1]);
        }
    }
};

/// A ring's place: its stage, and the parity of the round that passes through it.
template <int STAGES>
struct RingPlace {
    int stage = 0;
    uint32_t parity = 0;
    __device__ __forceinline__ void advance() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

/// Shared memory of a block, from a 1024-byte boundary on: the swizzle acts on addresses.
template <class G>
struct HopperShared {
    uint32_t ring, full, empty;
    float* floats;
    __device__ HopperShared() {
        unsigned char* base = shared_memory<unsigned char>();
        base += (1024 - shared_address(base) % 1024) % 1024;
        ring = shared_address(base);
        floats = reinterpret_cast<float*>(base + G::STAGES * G::STAGE_BYTES);
        full = shared_address(floats + G::FLOATS);
        empty = full + 8 * G::STAGES;
    }
};

/// One thread asks for every step's boxes as soon as their stage is free in both blocks.
template <class G>
__device__ __forceinline__ void ask_for_boxes(const DilatedBranchesFwdSm90Params& p, const HopperShared<G>& s,
                                              const Share& share) {
    RingPlace<G::STAGES> at;
    const auto ask = [&](const Segment& segment, const Group& g, const TilePlace& place, bool exists) {
        const BranchShape shape = p.call.branches.branch[g.branch].shape;
        const int image = exists ? place.image : p.call.branches.map.n;  // nothing but zeros
        const int o = place.o_tile * G::COLS + share.rank * (G::COLS / 2);
        for (int step = segment.begin; step < segment.end; ++step, at.advance()) {
            const Tap tap = tap_of(g, shape, step / p.call.schedule.k_steps);
            const int k = step % p.call.schedule.k_steps * G::DEPTH;
            const uint32_t a = s.ring + at.stage * G::STAGE_BYTES, full = s.full + 8 * at.stage;
            const uint32_t b = a + G::A_BYTES + share.rank * (G::B_BYTES / 2);
            mbarrier_wait(s.empty + 8 * at.stage, at.parity ^ 1);
            mbarrier_arrive_expect(full, G::STAGE_BYTES);
            tma_load(a, p.x, full, k, place.x + tap.dx, place.y + tap.dy, image);
            tma_load_multicast(b, p.w[g.branch], full, 3, k, tap.number, o);
        }
    };
    for_each_segment(p.call, share, ask);
}

/// This warpgroup's 64 pixels of one segment. A stage is free once the products that follow it are under way.
template <class G>
__device__ __forceinline__ void multiply_boxes(const HopperShared<G>& s, RingPlace<G::STAGES>& at, int steps,
                                               float (&r_acc)[G::COUNT]) {
    const uint32_t rows = G::worker() / G::GROUP * 64 * 128;
    const auto release = [&](int stage) {  // to the two threads that fill it
        if (threadIdx.x % 32 < 2) mbarrier_arrive_cluster(map_to_block(s.empty + 8 * stage, threadIdx.x % 32));
    };
    int before = 0;
    for (int step = 0; step < steps; ++step, at.advance()) {
        const uint32_t a = s.ring + at.stage * G::STAGE_BYTES;
        mbarrier_wait(s.full + 8 * at.stage, at.parity);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < G::DEPTH / 16; ++k)
            wgmma<G::COLS, typename G::T>(r_acc, wgmma_operand(a + rows + 32 * k, 16, 1024, Swizzle::b128),
                                          wgmma_operand(a + G::A_BYTES + 32 * k, 16, 1024, Swizzle::b128),
                                          step > 0 || k > 0);
        wgmma_commit();
        if (step > 0) {
            wgmma_wait<1>();
            release(before);
        }
        before = at.stage;
    }
    wgmma_wait<0>();
    release(before);
}

template <class G>
__global__ void __launch_bounds__(G::THREADS, 1)
    dilated_branches_fwd_sm90_kernel(const __grid_constant__ DilatedBranchesFwdSm90Params p) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)  // its instructions exist nowhere else
    using Registers = RegisterSplit<40, G::GROUP, 232, G::WORKERS>;
    const HopperShared<G> s;
    const Share share(p.call.schedule);
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < G::STAGES; ++stage) {
            mbarrier_init(s.full + 8 * stage, 1);
            mbarrier_init(s.empty + 8 * stage, 2 * G::WORKERS / 32);  // every warp of both blocks
        }
        fence_mbarrier_init();
    }
    cluster_arrive();
    cluster_wait();
    wait_for_earlier_grids();  // what comes before overlaps the end of the launch that wrote x
    if (threadIdx.x < G::GROUP) {
        Registers::few();
        if (threadIdx.x == 0) ask_for_boxes<G>(p, s, share);
        __syncwarp();  // the barrier below is one of whole warps
    } else {
        Registers::many();
        RingPlace<G::STAGES> at;
        for_each_segment(p.call, share,
                         [&](const Segment& segment, const Group& g, const TilePlace& place, bool exists) {
                             float r_acc[G::COUNT];
                             multiply_boxes<G>(s, at, segment.end - segment.begin, r_acc);
                             if (exists) finish_segment<G>(p.call, share, segment, g, place, r_acc, s.floats);
                         });
    }
    let_later_grids_begin();
    cluster_arrive();
    cluster_wait();  // the other block still delivers and arrives here
#endif
}

}  // namespace pk
