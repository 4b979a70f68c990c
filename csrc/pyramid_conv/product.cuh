// The product of one map at the output's size with its columns of a 1x1 weight, inside the merge: few channels, whose
// product would cost more to write and read again than to compute here.
#pragma once

#include "common/gemm_product.cuh"
#include "pyramid_conv/level.cuh"

namespace pk::pyramid_conv {

inline constexpr int tile_rows = 8, tile_cols = 16, tile_slots = 8;  // of pixels, and of vectors of channels
inline constexpr int tile_threads = 128;

struct Operand {
    PyramidConvOperand at;
    bool x_aligned, weight_aligned;  // vectors of channels may be read
};

/// 128 pixels times `tile_slots` vectors of channels by four warps, 32 pixels each, in steps of 128 bytes of depth. The
/// finished tile takes the panels' place in shared memory.
template <class T_, bool TF32, bool ChannelsLast>
struct ProductTile {
    using T = T_;
    static constexpr int ROWS = tile_rows * tile_cols, THREADS = tile_threads;
    static constexpr int LANE = lane_channels<T, ChannelsLast>, COLS = tile_slots * LANE;
    using A = Panel<T, ROWS, ChannelsLast>;
    using B = Panel<T, COLS, true>;
    using Product = TileProduct<T, TF32, Panel<T, 32, ChannelsLast, A::PITCH>, B>;
    static constexpr int DEPTH = A::DEPTH, SLICE = DEPTH / 4, PITCH = COLS + LANE;
    static constexpr size_t SHARED =
        larger((A::SIZE + B::SIZE) * sizeof(T), static_cast<size_t>(ROWS) * PITCH * sizeof(Acc<T>));
};

/// A panel of `count` elements of depth, zero beyond: line_of(i) is where line i lies, or null for one of zeros; line 0
/// lies somewhere. Neighbouring threads read N elements each along depth, or with N = 1 neighbouring lines.
template <class P, int N, class T, class LineOf>
__device__ __forceinline__ void fill_panel(T* s_panel, int count, long long step, bool aligned, LineOf&& line_of) {
    constexpr int TOTAL = P::LINES * P::DEPTH / N, K = smaller(4, TOTAL / tile_threads);
    static_assert(TOTAL % (K * tile_threads) == 0);
    const T zero = narrow<T>(Acc<T>(0));
    const bool whole = N == 1 || (aligned && step == 1 && count % N == 0);
    for (int first = threadIdx.x; first < TOTAL; first += K * tile_threads) {
        Vec<T, N> r[K];
        const T* g[K];
        int place[K], left[K];
#pragma unroll
        for (int k = 0; k < K; ++k) {
            const int e = first + k * tile_threads;
            const int line = N > 1 ? e / (P::DEPTH / N) : e % P::LINES;
            const int depth = N > 1 ? e % (P::DEPTH / N) * N : e / P::LINES;
            const T* g_line = line_of(line);
            left[k] = g_line ? count - depth : 0;
            g[k] = left[k] > 0 ? g_line + depth * step : line_of(0);
            place[k] = P::at(line, depth);
        }
        load_vecs(r, whole, step, zero, [&](int k) { return g[k]; }, [&](int k) { return left[k]; });
#pragma unroll
        for (int k = 0; k < K; ++k) {
#pragma unroll
            for (int i = 0; i < N; ++i) r[k][i] = left[k] > 0 ? r[k][i] : zero;
            *reinterpret_cast<Vec<T, N>*>(s_panel + place[k]) = r[k];
        }
    }
}

/// s_tile [pixel][channel] of PITCH = the products of the block's pixels from (y0, x0) on and channels from `channel`
/// on, complete after the next barrier; all threads take part.
template <class G>
__device__ __forceinline__ void multiply_inside(const Operand& operand, int o, int h, int w, int n, int y0, int x0,
                                                int channel, Acc<typename G::T>* s_tile) {
    using T = typename G::T;
    constexpr int V = vec_size<T>;
    const PyramidConvOperand& p = operand.at;
    T* s_a = shared_memory<T>();
    T* s_b = s_a + G::A::SIZE;
    const T* g_x = static_cast<const T*>(p.x) + n * p.strides[0];
    const T* g_w = static_cast<const T*>(p.weight);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Acc<T> r_acc[G::Product::COUNT] = {};
    for (int depth = 0; depth < p.c; depth += G::DEPTH) {
        const int count = p.c - depth;
        fill_panel<typename G::A, G::A::BY_DEPTH ? V : 1>(
            s_a, count, p.strides[1], operand.x_aligned, [&](int i) -> const T* {
                const int y = y0 + i / tile_cols, x = x0 + i % tile_cols;
                return y < h && x < w ? g_x + depth * p.strides[1] + y * p.strides[2] + x * p.strides[3] : nullptr;
            });
        fill_panel<typename G::B, V>(s_b, count, p.weight_c, operand.weight_aligned, [&](int i) -> const T* {
            return channel + i < o ? g_w + (channel + i) * p.weight_o + depth * p.weight_c : nullptr;
        });
        __syncthreads();
        for (int slice = 0; slice < smaller(4, ceil_div(count, G::SLICE)); ++slice)
            G::Product::step(s_a + G::A::at(warp * 32, 0), s_b, slice, lane, r_acc);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < G::Product::COUNT; ++i)
        s_tile[(warp * 32 + G::Product::row(i, lane)) * G::PITCH + G::Product::col(i, lane)] = r_acc[i];
}

}  // namespace pk::pyramid_conv
