// Forward of dilated_branches, for compute capability 8.0 and later: an implicit GEMM over the live taps of every
// branch.
//
// Owns: a tile is 128 pixels (images x rows x columns) and 128 output channels of one branch; its depth is live taps x
// C. A block is one worker of the static stream-K schedule (schedule.h): it takes an equal, contiguous share of the
// steps of all tiles. Blocks count down: the worker that starts a tile and finishes it waits only for lower block
// indices. A sum of branches has one block per tile instead, which adds the finished branches in registers. Shared
// bytes: a ring of 36,864 a stage, two or four by architecture; the finished tile reuses it. Bound: tensor cores; x and
// the weights come from L2.
#pragma once

#include "dilated_branches/epilogue.cuh"

namespace pk {

/// acc += steps [begin, end) of one tile: step = live tap * k_steps + block of input channels.
template <class G>
__device__ __forceinline__ void accumulate_taps(const DilatedBranchesFwdParams& p, const Branch& branch, const Group& g,
                                                const TilePlace& place, int begin, int end, typename G::T* s_ring,
                                                float (&r_acc)[G::COUNT]) {
    using T = typename G::T;
    const Extent map = p.branches.map;
    const T* g_x = static_cast<const T*>(p.x);
    const T* g_w = static_cast<const T*>(branch.weight);
    const bool x_vectors = starts_vectors(g_x, p.x_n, p.x_h, p.x_w);
    const bool w_vectors = starts_vectors(g_w, branch.w_o, branch.w_tap);
    const int o0 = place.o_tile * G::COLS, k_steps = p.schedule.k_steps;

    const auto copy = [&](int step, int stage) {
        const Tap tap = tap_of(g, branch.shape, step / k_steps);
        const int k = step % k_steps * G::DEPTH;
        T* s_stage = s_ring + stage * G::STAGE;
        copy_rows<typename G::A, G::THREADS>(s_stage, k, p.branches.c, x_vectors, g_x, [&](int row) -> const T* {
            const Pixel px = pixel_at(place, p.tile, map, row);
            const int y = px.y + tap.dy, x = px.x + tap.dx;
            const bool inside = px.exists && 0 <= y && y < map.h && 0 <= x && x < map.w;
            return inside ? g_x + px.image * p.x_n + y * p.x_h + x * p.x_w : nullptr;
        });
        copy_rows<typename G::B, G::THREADS>(s_stage + G::A::SIZE, k, p.branches.c, w_vectors, g_w, [&](int o) {
            return o0 + o < branch.shape.o ? g_w + (o0 + o) * branch.w_o + tap.number * branch.w_tap : nullptr;
        });
    };
    pipelined(ring_stages(p.branches.arch), begin, end, copy,
              [&](int stage) { G::multiply(s_ring + stage * G::STAGE, r_acc); });
}

template <class G, bool SUM>
__global__ void __launch_bounds__(G::THREADS)
    dilated_branches_fwd_kernel(const __grid_constant__ DilatedBranchesFwdParams p) {
    using T = typename G::T;
    T* s_ring = shared_memory<T>();
    float* s_floats = shared_memory<float>();
    float r_acc[G::COUNT];
    const auto restart = [&] {
#pragma unroll
        for (int i = 0; i < G::COUNT; ++i) r_acc[i] = 0;
    };
    if constexpr (SUM) {
        constexpr int V = vec_size<T>, SLOTS = G::ROWS * G::COLS / V / G::THREADS;
        Vec<float, V> r_total[SLOTS] = {};
        const TilePlace place = plain_place(p.branches.map, p.tile, p.schedule.o_tiles[0], blockIdx.x);
        for (int b = 0; b < p.branches.count; ++b) {
            const Branch& branch = p.branches.branch[b];
            const Group g = live_group(p.branches.map, p.tile, branch.shape, place);
            restart();
            accumulate_taps<G>(p, branch, g, place, 0, live_taps(g) * p.schedule.k_steps, s_ring, r_acc);
            store_tile<G>(p, branch, place, r_acc, s_floats, [&](int slot, Vec<float, V>& r) {
#pragma unroll
                for (int i = 0; i < V; ++i) r[i] = r_total[slot][i] += r[i];
                return b == p.branches.count - 1;
            });
        }
    } else {
        const Share share(p.schedule);
        for_each_segment(p, share, [&](const Segment& segment, const Group& g, const TilePlace& place, bool) {
            restart();
            accumulate_taps<G>(p, p.branches.branch[g.branch], g, place, segment.begin, segment.end, s_ring, r_acc);
            finish_segment<G>(p, share, segment, g, place, r_acc, s_floats);
        });
    }
}

}  // namespace pk
