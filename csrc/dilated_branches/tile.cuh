// The tile that the products of dilated_branches share: 128 x 128 outputs by eight warps, depth in steps of 128 bytes
// through a ring in shared memory.
#pragma once

#include "common/gemm_product.cuh"
#include "common/ring.cuh"
#include "common/vec.cuh"
#include "dilated_branches/dilated_branches.h"

namespace pk {

/// Stages of the ring: four need 144 KB of shared memory; compute capabilities 8.6, 8.9 and 12.x have 99. Asked of the
/// device at hand, not of __CUDA_ARCH__: code for 8.0 runs on 8.6 too.
PK_HD constexpr int ring_stages(int arch) { return arch == 86 || arch == 89 || arch >= 120 ? 2 : 4; }

/// A_BY_DEPTH, B_BY_DEPTH: whether global memory, and so shared memory, holds the operand as [line][depth].
template <class T_, bool TF32, bool A_BY_DEPTH, bool B_BY_DEPTH>
struct BranchTile {
    using T = T_;
    using A = Panel<T, 128, A_BY_DEPTH>;
    using B = Panel<T, 128, B_BY_DEPTH>;
    using Product = TileProduct<T, TF32, Panel<T, 64, A_BY_DEPTH, A::PITCH>, Panel<T, 32, B_BY_DEPTH, B::PITCH>>;
    static constexpr int ROWS = 128, COLS = 128, DEPTH = A::DEPTH, THREADS = 256;
    static constexpr int STAGE = A::SIZE + B::SIZE;
    static constexpr int COUNT = Product::COUNT;
    // The finished tile passes through shared memory in one panel, which reuses the ring.
    static constexpr int PANEL = COLS, PITCH = PANEL + 8, WORKERS = THREADS;
    static constexpr size_t EPILOGUE = (ROWS * PITCH + 3 * COLS + THREADS) * sizeof(float);
    static_assert(2 * STAGE * sizeof(T) <= 99 * 1024 && 4 * STAGE * sizeof(T) <= 163 * 1024);
    static_assert(EPILOGUE <= 99 * 1024);
    static size_t shared(int arch) { return larger(ring_stages(arch) * STAGE * sizeof(T), EPILOGUE); }

    static __device__ __forceinline__ int worker() { return threadIdx.x; }
    static __device__ __forceinline__ void sync() { __syncthreads(); }

    /// This warp's first row and column of the tile.
    static __device__ __forceinline__ int row0() { return threadIdx.x / 32 % 2 * 64; }
    static __device__ __forceinline__ int col0() { return threadIdx.x / 64 * 32; }

    /// One step of depth for this warp's 64 x 32 outputs.
    static __device__ __forceinline__ void multiply(const T* s_stage, float (&r_acc)[COUNT]) {
        const T* s_a = s_stage + A::at(row0(), 0);
        const T* s_b = s_stage + A::SIZE + B::at(col0(), 0);
#pragma unroll
        for (int slice = 0; slice < 4; ++slice) Product::step(s_a, s_b, slice, threadIdx.x % 32, r_acc);
    }

    /// Accumulators to s_tile [ROWS][PITCH]; complete after the next sync.
    static __device__ __forceinline__ void spread(const float (&r_acc)[COUNT], int, float* s_tile) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            s_tile[(row0() + Product::row(i, lane)) * PITCH + col0() + Product::col(i, lane)] = r_acc[i];
    }
};

/// Whether rows of elements, at g and any of these strides from it, start vectors of 16 bytes.
template <class T, class... Strides>
__device__ __forceinline__ bool starts_vectors(const T* g, Strides... strides) {
    return is_aligned(g, 16) && ((strides % vec_size<T> == 0) && ...);
}

/// Fill a panel: line_of(row) is where a row's elements lie in global memory, or null for a row of zeros; its columns
/// are elements [first, first + INNER), zero from `count` on. `vectors`: rows and `first` allow 16-byte copies;
/// `anywhere` is an address that a copy of no bytes may name.
template <class P, int THREADS, class T, class LineOf>
__device__ __forceinline__ void copy_rows(T* s_panel, int first, int count, bool vectors, const T* anywhere,
                                          LineOf&& line_of) {
    constexpr int V = vec_size<T>, PER_ROW = P::INNER / V;
    static_assert(P::OUTER * PER_ROW % THREADS == 0);
#pragma unroll
    for (int i = 0; i < P::OUTER * PER_ROW / THREADS; ++i) {
        const int e = i * THREADS + threadIdx.x, row = e / PER_ROW, col = e % PER_ROW * V;
        const T* g = line_of(row);
        const int left = g ? larger(0, smaller(V, count - first - col)) : 0;
        T* s = s_panel + row * P::PITCH + col;
        if (vectors) {
            cp_async_16(s, left ? g + first + col : anywhere, left * static_cast<int>(sizeof(T)));
        } else {
#pragma unroll
            for (int j = 0; j < V; ++j) s[j] = j < left ? g[first + col + j] : narrow<T>(0.f);
        }
    }
}

/// Call body(row, col) for every vector of V columns of the tile, each once; neighbouring threads get neighbouring rows
/// if `by_rows`, else columns.
template <class G, int V, class Body>
__device__ __forceinline__ void for_each_vector(bool by_rows, Body&& body) {
    constexpr int PER_ROW = G::COLS / V;
    for (int e = threadIdx.x; e < G::ROWS * PER_ROW; e += G::THREADS)
        body(by_rows ? e % G::ROWS : e / PER_ROW, (by_rows ? e / G::ROWS : e % PER_ROW) * V);
}

/// A pixel of a tile whose sides are powers of two.
struct Pixel {
    int image, y, x;
    bool exists;
};
__device__ __forceinline__ Pixel pixel_at(const TilePlace& place, Extent tile, Extent map, int row) {
    const int x = row & (tile.w - 1), rest = row / tile.w;
    const Pixel p{place.image + rest / tile.h, place.y + (rest & (tile.h - 1)), place.x + x, true};
    return {p.image, p.y, p.x, p.image < map.n && p.y < map.h && p.x < map.w};
}

/// Where a split of the pixels leaves a row of a branch's weight gradient [O * k * k][C].
__device__ __forceinline__ float* part_of(const DilatedBranchesBwdDwParams& p, int split, int b, long long row) {
    return p.part + split * p.elements + p.first_element[b] + row * p.branches.c;
}

}  // namespace pk
