// A tile of A B^T, for products of few lines and much depth: one body for every element type and any strides.
//
// Owns: a block of four warps owns 64 lines of A (of double 32) and 32 of B. The depth passes in steps of 128 bytes
// through a ring of four stages in shared memory, copied ahead (cp.async, 16 bytes, where an operand allows it). Every
// warp multiplies its quarter of a step for the whole tile, so that an element leaves shared memory once per block; at
// the end the four partial tiles are added in fixed order. Shared bytes: GemmTile::SHARED, 55,296 at most. Bound: where
// A has few lines, by reading B, of which up to three steps are under way per block.
#pragma once

#include <algorithm>

#include "common/gemm_product.cuh"
#include "common/ptx/cp_async.cuh"
#include "common/ring.cuh"
#include "common/vec.cuh"

namespace pk {

/// One index of a matrix in global memory: i lies (i / per) * outer + (i % per) * step elements on. Cells of images
/// have `per` cells an image; a plain index has per = count.
struct Dim {
    int count, per;
    long long outer, step;

    PK_HD static Dim plain(int count, long long step) { return {count, count, 0, step}; }
    PK_HD long long at(int i) const { return per == count ? i * step : i / per * outer + i % per * step; }
    PK_HD bool is_contiguous() const { return step == 1 && per == count; }
    /// Whether every element starts a vector of N if the first one does.
    PK_HD bool starts_vectors(int n) const { return (per <= 1 || step % n == 0) && (per >= count || outer % n == 0); }
};

/// A matrix in global memory as one side of a product.
template <class T>
struct Operand {
    const T* g;  // [line, depth]
    Dim line, depth;
};

/// The tile of one product. A_BY_DEPTH, B_BY_DEPTH: how shared memory holds the operand, [line][depth] or
/// [depth][line]; as global memory does, for 16-byte copies.
template <class T_, bool TF32, bool A_BY_DEPTH, bool B_BY_DEPTH>
struct GemmTile {
    using T = T_;
    using A = Panel<T, sizeof(T) == 8 ? 32 : 64, A_BY_DEPTH>;  // accumulators are registers
    using B = Panel<T, 32, B_BY_DEPTH>;
    using Product = TileProduct<T, TF32, A, B>;
    static constexpr int ROWS = A::LINES, COLS = B::LINES, DEPTH = A::DEPTH;
    static constexpr int WARPS = 4, THREADS = 32 * WARPS, STAGES = 4;
    static constexpr int STAGE = A::SIZE + B::SIZE;
    static constexpr int PITCH = COLS + 8;  // of a partial tile
    static constexpr size_t SHARED = std::max(STAGES * STAGE * sizeof(T), WARPS * ROWS * PITCH * sizeof(Acc<T>));
};

/// Copy lines [line, line + LINES) and depth [depth, depth + DEPTH) of `a` to s_panel; zero beyond the matrix.
template <int THREADS, class P, class T>
__device__ __forceinline__ void copy_panel(const Operand<T>& a, int line, int depth, T* s_panel) {
    const Dim& outer = P::BY_DEPTH ? a.line : a.depth;
    const Dim& inner = P::BY_DEPTH ? a.depth : a.line;
    const int outer0 = P::BY_DEPTH ? line : depth, inner0 = P::BY_DEPTH ? depth : line;
    const int thread = threadIdx.x;
    constexpr int V = vec_size<T>;
    if (inner.is_contiguous() && outer.starts_vectors(V) && is_aligned(a.g, 16)) {
#pragma unroll
        for (int e = thread; e < P::OUTER * P::INNER / V; e += THREADS) {
            const int o = e / (P::INNER / V), i = e % (P::INNER / V) * V;
            const int left = outer0 + o < outer.count ? larger(0, smaller(V, inner.count - inner0 - i)) : 0;
            const T* g = left ? a.g + outer.at(outer0 + o) + inner0 + i : a.g;
            cp_async_16(s_panel + o * P::PITCH + i, g, left * static_cast<int>(sizeof(T)));
        }
        return;
    }
    // One element per thread and read, neighbours along whichever index is closer together in global memory.
    const bool along_inner = inner.step <= outer.step;
    constexpr int EACH = P::OUTER * P::INNER / THREADS, BATCH = EACH < 8 ? EACH : 8;
    static_assert(EACH % BATCH == 0);
    for (int first = thread; first < P::OUTER * P::INNER; first += BATCH * THREADS) {
        T r[BATCH];
#pragma unroll
        for (int j = 0; j < BATCH; ++j) {
            const int e = first + j * THREADS;
            const int o = outer0 + (along_inner ? e / P::INNER : e % P::OUTER);
            const int i = inner0 + (along_inner ? e % P::INNER : e / P::OUTER);
            r[j] = o < outer.count && i < inner.count ? a.g[outer.at(o) + inner.at(i)] : narrow<T>(0.f);
        }
#pragma unroll
        for (int j = 0; j < BATCH; ++j) {
            const int e = first + j * THREADS;
            const int o = along_inner ? e / P::INNER : e % P::OUTER, i = along_inner ? e % P::INNER : e / P::OUTER;
            s_panel[o * P::PITCH + i] = r[j];
        }
    }
}

/// This warp's part of the products of lines row0.. of a with lines col0.. of b; it starts from zero.
template <class G, class T>
__device__ __forceinline__ void multiply_tile(const Operand<T>& a, int row0, const Operand<T>& b, int col0, T* s_ring,
                                              Acc<T> (&r_acc)[G::Product::COUNT]) {
#pragma unroll
    for (int i = 0; i < G::Product::COUNT; ++i) r_acc[i] = 0;
    const int steps = ceil_div(a.depth.count, G::DEPTH);
    const auto copy = [&](int step, int stage) {
        T* s_stage = s_ring + stage * G::STAGE;
        copy_panel<G::THREADS, typename G::A>(a, row0, step * G::DEPTH, s_stage);
        copy_panel<G::THREADS, typename G::B>(b, col0, step * G::DEPTH, s_stage + G::A::SIZE);
    };
    pipelined(G::STAGES, 0, steps, copy, [&](int stage) {
        const T* s_stage = s_ring + stage * G::STAGE;
        G::Product::step(s_stage, s_stage + G::A::SIZE, threadIdx.x / 32, threadIdx.x % 32, r_acc);
    });
}

/// Add the warps' parts in fixed order and call body(row, col, Vec of V columns from col on) for the whole tile, each
/// vector once. `by_rows`: neighbouring threads get neighbouring rows, else columns.
template <class G, class Body>
__device__ __forceinline__ void for_each_product(const Acc<typename G::T> (&r_acc)[G::Product::COUNT],
                                                 Acc<typename G::T>* s_parts, bool by_rows, Body&& body) {
    using A = Acc<typename G::T>;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    A* s_part = s_parts + warp * G::ROWS * G::PITCH;
#pragma unroll
    for (int i = 0; i < G::Product::COUNT; ++i)
        s_part[G::Product::row(i, lane) * G::PITCH + G::Product::col(i, lane)] = r_acc[i];
    __syncthreads();
    constexpr int V = vec_size<typename G::T>;
    for (int e = threadIdx.x; e < G::ROWS * G::COLS / V; e += G::THREADS) {
        const int row = by_rows ? e % G::ROWS : e / (G::COLS / V);
        const int col = (by_rows ? e / G::ROWS : e % (G::COLS / V)) * V;
        Vec<A, V> sum;
#pragma unroll
        for (int i = 0; i < V; ++i) sum[i] = s_parts[row * G::PITCH + col + i];
        for (int w = 1; w < G::WARPS; ++w)
#pragma unroll
            for (int i = 0; i < V; ++i) sum[i] += s_parts[(w * G::ROWS + row) * G::PITCH + col + i];
        body(row, col, sum);
    }
}

}  // namespace pk
