// What one warp multiplies per step of depth: its quarter of two panels in shared memory, on tensor cores for half
// precision and TF32, by fused multiply-adds for IEEE float and double.
#pragma once

#include "common/ptx/ldmatrix.cuh"
#include "common/ptx/mma.cuh"
#include "common/scalar.cuh"

namespace pk {

/// LINES lines of an operand, 128 bytes of depth, in shared memory: [line][depth] if BY_DEPTH, else [depth][line].
/// Rows are padded so that fragments are read without bank conflicts. A warp's own lines in a wider panel have its
/// pitch.
template <class T, int LINES_, bool BY_DEPTH_, int PITCH_ = 0>
struct Panel {
    static constexpr bool BY_DEPTH = BY_DEPTH_;
    static constexpr int LINES = LINES_, DEPTH = 128 / sizeof(T);
    static constexpr int OUTER = BY_DEPTH ? LINES : DEPTH, INNER = BY_DEPTH ? DEPTH : LINES;
    static constexpr int PITCH = PITCH_ ? PITCH_ : INNER + (BY_DEPTH || sizeof(T) == 2 ? 16 : 32) / sizeof(T);
    static constexpr int SIZE = OUTER * PITCH;
    static PK_HD int at(int line, int depth) { return BY_DEPTH ? line * PITCH + depth : depth * PITCH + line; }
};

/// IEEE float and double: a lane owns rows lane / 4 + 8 i and columns lane % 4 + 4 j.
template <class T, bool TF32, class A, class B>
struct TileProduct {
    static constexpr int ROWS = A::LINES / 8, COLS = B::LINES / 4, COUNT = ROWS * COLS, DEPTH = A::DEPTH / 4;
    static PK_HD int row(int i, int lane) { return lane / 4 + i / COLS * 8; }
    static PK_HD int col(int i, int lane) { return lane % 4 + i % COLS * 4; }

    static __device__ __forceinline__ void step(const T* s_a, const T* s_b, int warp, int lane, T (&r_acc)[COUNT]) {
#pragma unroll 2  // more, and operands read ahead take the registers of a wide tile's sums
        for (int k = 0; k < DEPTH; ++k) {
            T r_a[ROWS], r_b[COLS];
#pragma unroll
            for (int i = 0; i < ROWS; ++i) r_a[i] = s_a[A::at(lane / 4 + 8 * i, warp * DEPTH + k)];
#pragma unroll
            for (int j = 0; j < COLS; ++j) r_b[j] = s_b[B::at(lane % 4 + 4 * j, warp * DEPTH + k)];
#pragma unroll
            for (int i = 0; i < COUNT; ++i) r_acc[i] += r_a[i / COLS] * r_b[i % COLS];
        }
    }
};

/// Where accumulator i of a lane stands in a tile of m16n8 products, COLS of them side by side.
template <int COLS>
struct MmaTile {
    static PK_HD int row(int i, int lane) { return i / (4 * COLS) * 16 + lane / 4 + i % 4 / 2 * 8; }
    static PK_HD int col(int i, int lane) { return i / 4 % COLS * 8 + lane % 4 * 2 + i % 2; }
};

/// float in TF32: one m16n8k8 deep.
template <class A, class B>
struct TileProduct<float, true, A, B> : MmaTile<B::LINES / 8> {
    static constexpr int ROWS = A::LINES / 16, COLS = B::LINES / 8, COUNT = ROWS * COLS * 4;

    static __device__ __forceinline__ void step(const float* s_a, const float* s_b, int warp, int lane,
                                                float (&r_acc)[COUNT]) {
        const int line = lane / 4, k = warp * 8 + lane % 4;
        uint32_t r_b[COLS][2];
#pragma unroll
        for (int j = 0; j < COLS * 2; ++j) r_b[j / 2][j % 2] = to_tf32(s_b[B::at(line + j / 2 * 8, k + j % 2 * 4)]);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            uint32_t r_a[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) r_a[j] = to_tf32(s_a[A::at(line + i * 16 + j % 2 * 8, k + j / 2 * 4)]);
#pragma unroll
            for (int j = 0; j < COLS; ++j) mma_m16n8k8_tf32(&r_acc[(i * COLS + j) * 4], r_a, r_b[j]);
        }
    }
};

/// half and bf16: one m16n8k16 deep; ldmatrix reads 16 lines at once, transposing where a panel is [depth][line].
template <class T, class A, class B>
struct HalfProduct : MmaTile<B::LINES / 8> {
    static constexpr int ROWS = A::LINES / 16, COLS = B::LINES / 8, COUNT = ROWS * COLS * 4;

    /// Four 8x8 matrices of 16 lines from `first` on: of the lower and upper 8 lines and depths, lines changing first
    /// if LINES_FIRST.
    template <class P, bool LINES_FIRST>
    static __device__ __forceinline__ void read(uint32_t (&r)[4], const T* s_panel, int first, int warp, int lane) {
        const int low = lane / 8 % 2 * 8, high = lane / 16 * 8;
        const int upper_line = first + (LINES_FIRST ? low : high), upper_depth = warp * 16 + (LINES_FIRST ? high : low);
        if constexpr (P::BY_DEPTH)
            ldmatrix_x4(r, s_panel + P::at(upper_line + lane % 8, upper_depth));
        else
            ldmatrix_x4_trans(r, s_panel + P::at(upper_line, upper_depth + lane % 8));
    }

    static __device__ __forceinline__ void step(const T* s_a, const T* s_b, int warp, int lane, float (&r_acc)[COUNT]) {
        uint32_t r_b[COLS / 2][4];
#pragma unroll
        for (int j = 0; j < COLS / 2; ++j) read<B, false>(r_b[j], s_b, j * 16, warp, lane);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            uint32_t r_a[4];
            read<A, true>(r_a, s_a, i * 16, warp, lane);
#pragma unroll
            for (int j = 0; j < COLS; ++j) mma_m16n8k16<T>(&r_acc[(i * COLS + j) * 4], r_a, &r_b[j / 2][j % 2 * 2]);
        }
    }
};

template <class A, class B>
struct TileProduct<half, false, A, B> : HalfProduct<half, A, B> {};
template <class A, class B>
struct TileProduct<bf16, false, A, B> : HalfProduct<bf16, A, B> {};

}  // namespace pk
