// What follows the products of a forward tile, the same for every body: partial sums that change hands, image bias,
// statistics, norm, ReLU, stores. A body's tile G names its threads: WORKERS of them, worker(), and their barrier
// sync().
#pragma once

#include "common/norm.cuh"
#include "common/ptx/flag.cuh"
#include "dilated_branches/tile.cuh"

namespace pk {

/// A block's scratch: partial sums [COUNT][WORKERS], and the flag that says they are there.
template <class G>
struct Scratch {
    float* g_sums;
    std::uint64_t* g_flag;
    __device__ Scratch(const DilatedBranchesFwdParams& p, int block)
        : g_sums(static_cast<float*>(p.scratch) + 1LL * block * (branches_scratch_bytes - 8) / 4),
          g_flag(reinterpret_cast<std::uint64_t*>(static_cast<char*>(p.scratch) +
                                                  1LL * p.blocks * (branches_scratch_bytes - 8)) +
                 block) {}

    /// Leave this block's sums for the tile's owner.
    __device__ __forceinline__ void leave(const float (&r_acc)[G::COUNT], std::uint64_t epoch) const {
#pragma unroll
        for (int i = 0; i < G::COUNT; ++i) g_sums[i * G::WORKERS + G::worker()] = r_acc[i];
        __threadfence();
        G::sync();
        if (G::worker() == 0) store_release(g_flag, epoch);
    }

    /// Wait for another worker's sums, add them, and lower the flag: a replayed launch raises the same one.
    __device__ __forceinline__ void take(float (&r_acc)[G::COUNT], std::uint64_t epoch) const {
        if (G::worker() == 0) {
            wait_for_flag(g_flag, epoch);
            *g_flag = 0;
        }
        G::sync();
#pragma unroll
        for (int i = 0; i < G::COUNT; ++i) r_acc[i] += __ldcg(g_sums + i * G::WORKERS + G::worker());
    }
};

/// What constant per-image channels add to output channel o of a pixel: the values of the taps inside the map.
template <class T>
__device__ __forceinline__ float image_term(const DilatedBranchesFwdParams& p, const Pixel& px, int o) {
    const BranchShape shape = p.branches.branch[0].shape;
    const int taps = shape.side * shape.side;
    const T* g_bias = static_cast<const T*>(p.image_bias) + (1LL * px.image * shape.o + o) * taps;
    float sum = 0;
    for (int tap = 0; tap < taps; ++tap) {
        const int y = px.y + (tap / shape.side - shape.side / 2) * shape.dilation;
        const int x = px.x + (tap % shape.side - shape.side / 2) * shape.dilation;
        if (0 <= y && y < p.branches.map.h && 0 <= x && x < p.branches.map.w) sum += widen(g_bias[tap]);
    }
    return sum;
}

/// Count, mean and squared deviations of every channel of a panel over the tile's pixels. Threads that share a channel
/// take every so many pixels; their sums are added in order.
template <class G>
__device__ __forceinline__ void store_statistics(const DilatedBranchesFwdParams& p, const Branch& branch,
                                                 const TilePlace& place, int o, const float* s_panel, float* s_sums) {
    constexpr int SHARES = G::WORKERS / G::PANEL;
    const int col = G::worker() % G::PANEL, share = G::worker() / G::PANEL;
    const auto total = [&](auto&& value) {
        float sum = 0;
        for (int row = share; row < G::ROWS; row += SHARES)
            if (pixel_at(place, p.tile, p.branches.map, row).exists) sum += value(s_panel[row * G::PITCH + col]);
        s_sums[G::worker()] = sum;
        G::sync();
        sum = 0;
        for (int i = 0; i < SHARES; ++i) sum += s_sums[i * G::PANEL + col];
        G::sync();
        return sum;
    };
    const float count = total([](float) { return 1.f; });
    const float mean = total([](float v) { return v; }) / count;
    const float squares = total([&](float v) { return (v - mean) * (v - mean); });
    if (share != 0 || o + col >= branch.shape.o) return;
    const Extent map = p.branches.map;
    const int tiles_h = ceil_div(map.h, p.tile.h), tiles_w = ceil_div(map.w, p.tile.w);
    const int tile = (place.image / p.tile.n * tiles_h + place.y / p.tile.h) * tiles_w + place.x / p.tile.w;
    float* g_part = p.part + 3LL * tile * p.branches.channels + branch.first + o + col;
    g_part[0] = count;
    g_part[p.branches.channels] = mean;
    g_part[2LL * p.branches.channels] = squares;
}

/// The tile passes through shared memory panel by panel, so that each thread stores whole vectors of channels.
/// s_floats: ROWS x PITCH of a panel, three vectors of COLS, WORKERS sums. finish(slot, values) sees what y gets and
/// says whether to store it; slot counts a thread's vectors within a panel.
template <class G, class Finish>
__device__ __forceinline__ void store_tile(const DilatedBranchesFwdParams& p, const Branch& branch,
                                           const TilePlace& place, const float (&r_acc)[G::COUNT], float* s_floats,
                                           Finish&& finish) {
    using T = typename G::T;
    constexpr int V = vec_size<T>, PER_ROW = G::PANEL / V;
    float* s_panel = s_floats;
    float *s_center = s_panel + G::ROWS * G::PITCH, *s_factor = s_center + G::COLS, *s_bias = s_factor + G::COLS;
    const int o0 = place.o_tile * G::COLS;
    const bool pixels_first = p.y && p.y_w < p.y_c;  // neighbouring threads store what is close together
    for (int col = G::worker(); col < G::COLS; col += G::WORKERS) {
        const int o = smaller(o0 + col, branch.shape.o - 1);
        s_center[col] = vector_or<T>(branch.norm.mean, o, 0);
        s_factor[col] = inverse_deviation<T>(branch.norm, o) * vector_or<T>(branch.norm.gain, o, 1);
        s_bias[col] = vector_or<T>(branch.norm.bias, o, 0);
    }
    for (int col0 = 0; col0 < G::COLS && o0 + col0 < branch.shape.o; col0 += G::PANEL) {
        G::spread(r_acc, col0, s_panel);
        G::sync();
        if (p.image_bias) {
            for (int e = G::worker(); e < G::ROWS * G::PANEL; e += G::WORKERS) {
                const int row = e / G::PANEL, col = e % G::PANEL;
                const Pixel px = pixel_at(place, p.tile, p.branches.map, row);
                if (px.exists && o0 + col0 + col < branch.shape.o)
                    s_panel[row * G::PITCH + col] += image_term<T>(p, px, o0 + col0 + col);
            }
            G::sync();
        }
        if (p.part) store_statistics<G>(p, branch, place, o0 + col0, s_panel, s_bias + G::COLS);
#pragma unroll
        for (int slot = 0; slot < G::ROWS * PER_ROW / G::WORKERS; ++slot) {
            const int e = slot * G::WORKERS + G::worker();
            const int row = pixels_first ? e % G::ROWS : e / PER_ROW;
            const int col = (pixels_first ? e / G::ROWS : e % PER_ROW) * V, o = o0 + col0 + col;
            const Pixel px = pixel_at(place, p.tile, p.branches.map, row);
            const int count = smaller(V, branch.shape.o - o);
            if (!px.exists || count <= 0) continue;
            Vec<float, V> r;
#pragma unroll
            for (int i = 0; i < V; i += 4) {  // 16 bytes at once are free of bank conflicts
                const auto four = load_vec<4>(s_panel + row * G::PITCH + col + i, 4, true, 1, 0.f);
#pragma unroll
                for (int j = 0; j < 4; ++j) r[i + j] = four[j];
            }
            const long long pixel = (1LL * px.image * p.branches.map.h + px.y) * p.branches.map.w + px.x;
            if (p.z)
                store_rounded(static_cast<T*>(p.z) + pixel * p.branches.channels + branch.first + o, r.at, count, 1);
            if (!p.y) continue;
#pragma unroll
            for (int i = 0; i < V; ++i) {
                const int c = col0 + col + i;
                r[i] = (r[i] - s_center[c]) * s_factor[c] + s_bias[c];
                if (p.relu && r[i] < 0) r[i] = 0;
            }
            if (!finish(slot, r)) continue;
            T* g_y = static_cast<T*>(p.y) + px.image * p.y_n + px.y * p.y_h + px.x * p.y_w;
            store_rounded(g_y + ((p.sum ? 0 : branch.first) + o) * p.y_c, r.at, count, p.y_c);
        }
        G::sync();  // the panel is written again
    }
}

/// This block's part in the schedule: blocks count down, so that a worker waits only for lower block indices.
struct Share {
    int worker, rank, end;
    __device__ explicit Share(const Schedule& s)
        : worker((static_cast<int>(gridDim.x) - 1 - static_cast<int>(blockIdx.x)) / s.pair),
          rank(blockIdx.x % s.pair),
          end(boundary(s, worker + 1)) {}
};

/// Call body(segment, group, place, exists) for everything in a block's share; a tile that does not exist is only the
/// other half of a pair.
template <class Body>
__device__ __forceinline__ void for_each_segment(const DilatedBranchesFwdParams& p, const Share& share, Body&& body) {
    const Schedule& s = p.schedule;
    for (int step = boundary(s, share.worker); step < share.end;) {
        const Segment segment = segment_at(s, step, share.end);
        const Group& g = s.groups[segment.group];
        TilePlace place;
        const bool exists = place_of(s, g, p.tile, segment.unit, share.rank, place);
        body(segment, g, place, exists);
        step += segment.end - segment.begin;
    }
}

/// What becomes of a segment's products: partial sums for the tile's owner, or, with the others' added, the tile.
template <class G>
__device__ __forceinline__ void finish_segment(const DilatedBranchesFwdParams& p, const Share& share,
                                               const Segment& segment, const Group& g, const TilePlace& place,
                                               float (&r_acc)[G::COUNT], float* s_floats) {
    const auto scratch = [&](int worker) { return Scratch<G>(p, worker * p.schedule.pair + share.rank); };
    if (segment.begin > 0) return scratch(share.worker).leave(r_acc, p.epoch);
    const int last = segment.end < g.depth ? last_partner(p.schedule, segment, share.worker) : share.worker;
    for (int w = share.worker + 1; w <= last; ++w) scratch(w).take(r_acc, p.epoch);
    store_tile<G>(p, p.branches.branch[g.branch], place, r_acc, s_floats, [](int, auto&) { return true; });
}

}  // namespace pk
