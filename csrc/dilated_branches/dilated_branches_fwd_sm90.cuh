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

#include "dilated_branches/epilogue.cuh"
#include "dilated_branches/hopper.cuh"

namespace pk {

struct DilatedBranchesFwdSm90Params {
    DilatedBranchesFwdParams call;
    TensorMap x;                // [N, H, W, C], boxes of 64 channels of a tile's pixels
    TensorMap w[MAX_BRANCHES];  // [O, k * k, C], boxes of 64 channels of one tap of COLS / 2 outputs
};

/// Both operands as they lie: pixels of x and outputs of the weights, channels contiguous.
template <class T, int COLS>
struct HopperTile : HopperCta<T, COLS, false, false> {
    using Cta = HopperCta<T, COLS, false, false>;
    using Cta::COUNT, Cta::ROWS, Cta::WORKERS, Cta::worker;
    static constexpr int PANEL = 32, PITCH = PANEL + 4;
    static constexpr size_t EPILOGUE = (ROWS * PITCH + 3 * COLS + WORKERS) * sizeof(float);

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

template <class G>
__global__ void __launch_bounds__(G::THREADS, 1)
    dilated_branches_fwd_sm90_kernel(const __grid_constant__ DilatedBranchesFwdSm90Params p) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)  // its instructions exist nowhere else
    const Share share(p.call.schedule);
    HopperRing<G> ring;
    const auto produce = [&](const Segment& segment, const Group& g, const TilePlace& place, bool exists) {
        const BranchShape shape = p.call.branches.branch[g.branch].shape;
        const int image = exists ? place.image : p.call.branches.map.n;  // nothing but zeros
        const int half = share.rank * (G::COLS / 2), o = place.o_tile * G::COLS + half;
        for (int step = segment.begin; step < segment.end; ++step, ring.advance()) {
            const Tap tap = tap_of(g, shape, step / p.call.schedule.k_steps);
            const int k = step % p.call.schedule.k_steps * G::DEPTH;
            const uint32_t full = ring.acquire();
            tma_load(ring.a(), p.x, full, k, place.x + tap.dx, place.y + tap.dy, image);
            tma_load_multicast(ring.b() + half * 128, p.w[g.branch], full, 3, k, tap.number, o);
        }
    };
    const auto consume = [&](const Segment& segment, const Group& g, const TilePlace& place, bool exists) {
        float r_acc[G::COUNT];
        multiply_stages(ring, segment.end - segment.begin, r_acc);
        auto* s_floats = reinterpret_cast<float*>(ring.s_epilogue);
        if (exists) finish_segment<G>(p.call, share, segment, g, place, r_acc, s_floats);
    };
    run_roles(
        ring, [&] { for_each_segment(p.call, share, produce); }, [&] { for_each_segment(p.call, share, consume); });
#endif
}

}  // namespace pk
