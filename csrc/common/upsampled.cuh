// Several classes of a resized map at one output column, row after row: columns are blended where source rows change.
#pragma once

#include "common/scalar.cuh"
#include "common/upsampled.h"
#include "common/vec.cuh"

namespace pk {

/// Threads along output columns, and output rows that one of them owns in the kernels that walk down a column.
inline constexpr int column_threads = 128;
template <class T>
inline constexpr int rows_deep = sizeof(T) == 8 ? 4 : 8;

/// What a block owns of the output: `column_threads` columns by `rows_deep` rows of one image.
struct Place {
    int n, x, y;
};
template <class T>
__device__ __forceinline__ Place place_of(const Upsampled& m) {
    const int across = ceil_div(m.x.full, column_threads), down = ceil_div(m.y.full, rows_deep<T>);
    const int u = blockIdx.x;
    return {u / (across * down), u % across * column_threads + static_cast<int>(threadIdx.x),
            u / across % down * rows_deep<T>};
}

/// r[k] = class k of `count` at g_row, the first class of a source row, where the output column reads `right`.
template <class T, int K>
__device__ __forceinline__ void blend_columns(const Upsampled& m, const T* g_row, const Taps<Acc<T>>& right, int count,
                                              Acc<T> (&r)[K]) {
    using A = Acc<T>;
    const T zero = narrow<T>(A(0));
    const Vec<T, K> a = load_vec<K>(g_row + right.low * m.strides[3], count, m.aligned, m.strides[1], zero);
    if (m.x.how == Resample::taken) {  // the other tap's weight is zero, and zero times infinity is NaN
#pragma unroll
        for (int k = 0; k < K; ++k) r[k] = widen(a[k]);
        return;
    }
    const Vec<T, K> b = load_vec<K>(g_row + right.high * m.strides[3], count, m.aligned, m.strides[1], zero);
#pragma unroll
    for (int k = 0; k < K; ++k) r[k] = (A(1) - right.above) * widen(a[k]) + right.above * widen(b[k]);
}

/// r[k] = the blend of two rows of blended columns; the lower one alone where the map is taken as it is.
template <int K, class A>
__device__ __forceinline__ void blend_rows(const Upsampled& m, const A (&low)[K], const A (&high)[K], A above,
                                           A (&r)[K]) {
    if (m.y.how == Resample::taken) {
#pragma unroll
        for (int k = 0; k < K; ++k) r[k] = low[k];
        return;
    }
#pragma unroll
    for (int k = 0; k < K; ++k) r[k] = (A(1) - above) * low[k] + above * high[k];
}

/// Call use(r, first class, v[K]) for all classes, K at a time, and for the rows at.y + r of column at.x < m.x.full;
/// r is a constant after unrolling. Classes beyond the last are minus infinity.
template <class T, class Use>
__device__ __forceinline__ void each_class(const Upsampled& m, const Place& at, Use use) {
    using A = Acc<T>;
    constexpr int K = classes_at_once;
    const T* g_image = static_cast<const T*>(m.data) + at.n * m.strides[0];
    const Taps<A> right = m.x.source<A>(at.x);
    for (int first = 0; first < m.c; first += K) {
        const T* g_first = g_image + first * m.strides[1];
        A low[K], high[K];
        int row = -1, next = -1;  // that `low` and `high` hold
#pragma unroll
        for (int r = 0; r < rows_deep<T>; ++r) {
            if (at.y + r >= m.y.full) break;
            const Taps<A> down = m.y.source<A>(at.y + r);
            if (down.low != row) {
                row = down.low;
                if (row == next) {
#pragma unroll
                    for (int k = 0; k < K; ++k) low[k] = high[k];
                } else {
                    blend_columns(m, g_first + row * m.strides[2], right, m.c - first, low);
                }
            }
            if (down.high != next) {
                next = down.high;
                blend_columns(m, g_first + next * m.strides[2], right, m.c - first, high);
            }
            A v[K];
            blend_rows(m, low, high, down.above, v);
#pragma unroll
            for (int k = 0; k < K; ++k)
                if (first + k >= m.c) v[k] = A(-INFINITY);
            use(r, first, v);
        }
    }
}

/// Blocks of a kernel that walks down columns of the whole output, or why they are too many.
template <class T>
Status column_blocks(const Upsampled& m, unsigned& blocks) {
    const long long count =
        static_cast<long long>(m.n) * ceil_div(m.x.full, column_threads) * ceil_div(m.y.full, rows_deep<T>);
    PK_CHECK(count < (1LL << 31), "the result is too large for one launch");
    blocks = static_cast<unsigned>(count);
    return {};
}

}  // namespace pk
