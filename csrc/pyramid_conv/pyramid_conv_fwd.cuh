// What follows the products: every output adds each tap of each level where the tap lies inside the map, then bias,
// affine and activation, and is written once.
//
// Owns: a block owns `merge_rows` rows of a tile of columns and a slice of channels of one image; a thread owns one
// column of it and `lane_channels` channels, its sums in registers over all levels. Resampling is separable, and both
// steps of it are the same thread's: a row of cells is resampled along columns for a row of taps (two reads a tap) and
// added to the rows of pixels that take from it. So with 3x3 taps at scale s an output costs about 18 (1/s + 1/4) reads
// a level instead of 36, no value passes through shared memory and no barrier separates levels.
// grid:   x images x tiles of rows and columns, y channel slices
// block:  channels_last: `width` threads along channels, 16 bytes each, the others along columns; NCHW: `width` threads
//         along columns, the others along slices of channels
// shared: for every level the cells behind each row that the tile's taps read, 1,280 bytes (k = 3; of double 2,560). A
//         product inside (product.cuh) has tiles of 8 x 16 pixels and 36,864 bytes more at most
// Bound: reading base and writing y, and cells through L1; six loads of a row of cells are under way per thread.
#pragma once

#include "pyramid_conv/product.cuh"

namespace pk::pyramid_conv {

inline constexpr int merge_threads = 128, merge_rows = tile_rows;

struct Merge {
    int o, h, w;
    int width;  // a power of two
    int count;
    Level levels[pyramid_conv_levels];
    Operand operand;
    const void *base, *bias, *scale, *shift;
    bool bias_is_t, scale_is_t, shift_is_t;
    bool relu;
    bool aligned;  // vectors of base's, y's and z's channels are
    void *y, *z;
};

/// The cell at or below a position along an axis, the one above it, low again where there is none, and its share, which
/// may be zero: such a cell is read all the same, as PyTorch reads it, for zero times NaN or infinity is NaN.
template <class A>
struct Source {
    int low, high;
    A above;

    __device__ __forceinline__ bool inside() const { return low >= 0; }
    __device__ __forceinline__ bool reads(int cell) const { return inside() && (cell == low || cell == high); }
    __device__ __forceinline__ A share(int cell) const { return cell == low ? A(1) - above : above; }
};

template <class A>
__device__ __forceinline__ Source<A> source_at(const ResizedAxis& axis, int d) {
    if (d < 0 || d >= axis.full) return {-1, -1, A(0)};
    const Taps<A> taps = axis.source<A>(d);
    return {taps.low, taps.high, taps.high == taps.low ? A(0) : taps.above};
}

/// s_rows[level][i] is for row y0 + i - K / 2; complete after the next barrier.
template <class A, int K>
__device__ __forceinline__ void find_rows(const Merge& p, int y0, Source<A> (*s_rows)[merge_rows + K - 1]) {
    constexpr int ROWS = merge_rows + K - 1;
    for (int e = threadIdx.x; e < p.count * ROWS; e += merge_threads)
        s_rows[e / ROWS][e % ROWS] = source_at<A>(p.levels[e / ROWS].y, y0 + e % ROWS - K / 2);
}

/// r[c] = a row of cells, resampled along columns and summed over a row of taps, `tap` elements apart. A tap outside
/// the map brings zero, not zero times what lies there.
template <bool Whole, class T, int K, int V>
__device__ __forceinline__ void resample_row(const T* g_row, const Level& level, long long tap,
                                             const Source<Acc<T>> (&cols)[K], int count, Acc<T> (&r)[V]) {
    constexpr int SIDES = Whole ? 2 : 1;  // element by element, cells under way together take too many registers
#pragma unroll
    for (int c = 0; c < V; ++c) r[c] = 0;
#pragma unroll
    for (int d = 0; d < K; ++d) {
        const Source<Acc<T>>& col = cols[d];
#pragma unroll SIDES
        for (int side = 0; side < 2; ++side) {
            const Acc<T> share = side ? col.above : 1 - col.above;
            Vec<T, V> cell{};
            if (col.inside() && (side == 0 || col.high > col.low))
                cell = channels_at<Whole, V>(g_row + d * tap + (col.low + side) * level.strides[3], count,
                                             level.strides[1]);
#pragma unroll
            for (int c = 0; c < V; ++c) r[c] += share * widen(cell[c]);
        }
    }
}

/// acc[v][c] += what a level's taps bring to pixel (y0 + v, x) from g_level, the image's first of `count` channels, on.
template <bool Whole, class T, int K, int V>
__device__ __forceinline__ void add_level(const Merge& p, const Level& level, const Source<Acc<T>>* s_rows,
                                          const T* g_level, int y0, int x, int count, Acc<T> (&acc)[merge_rows][V]) {
    using A = Acc<T>;
    const long long tap = p.o * level.strides[1];
    Source<A> cols[K];
#pragma unroll
    for (int d = 0; d < K; ++d) cols[d] = source_at<A>(level.x, x + d - K / 2);
#pragma unroll 1
    for (int t = 0; t < K; ++t) {
        // The rows of pixels that this row of taps reads, as indices of s_rows.
        const int first = larger(t, K / 2 - y0);
        const int last = smaller(t + merge_rows, p.h - y0 + K / 2) - 1;
        if (first > last) continue;
#pragma unroll 1
        for (int row = s_rows[first].low; row <= s_rows[last].high; ++row) {
            A r[V];
            const T* g_row = g_level + t * K * tap + row * level.strides[2];
            resample_row<Whole>(g_row, level, tap, cols, count, r);
#pragma unroll
            for (int v = 0; v < merge_rows; ++v) {
                if (!s_rows[v + t].reads(row)) continue;  // for the whole block
                const A share = s_rows[v + t].share(row);
#pragma unroll
                for (int c = 0; c < V; ++c) acc[v][c] += share * r[c];
            }
        }
    }
}

/// Where one thread's pixels and channels lie in a dense (n, o, h, w).
struct Strip {
    long long at, row, step;  // the first element, and what separates rows and channels
    int rows, count;          // inside the map
};

template <class T, int V>
__device__ __forceinline__ void read_strip(const void* from, const Strip& s, bool aligned,
                                           Acc<T> (&acc)[merge_rows][V]) {
    const T* g = static_cast<const T*>(from) + s.at;
    Vec<T, V> r[merge_rows];
    load_vecs(
        r, aligned && s.count >= V, s.step, narrow<T>(Acc<T>(0)),
        [&](int v) { return g + smaller(v, s.rows - 1) * s.row; }, [&](int) { return s.count; });
#pragma unroll
    for (int v = 0; v < merge_rows; ++v)
#pragma unroll
        for (int c = 0; c < V; ++c) acc[v][c] = widen(r[v][c]);
}

template <class T, int V>
__device__ __forceinline__ void write_strip(void* to, const Strip& s, bool aligned,
                                            const Acc<T> (&acc)[merge_rows][V]) {
    T* g = static_cast<T*>(to) + s.at;
#pragma unroll
    for (int v = 0; v < merge_rows; ++v) {
        if (v >= s.rows) break;
        Vec<T, V> r;
#pragma unroll
        for (int c = 0; c < V; ++c) r[c] = narrow<T>(acc[v][c]);
        store_vec(g + v * s.row, r, s.count, aligned, s.step);
    }
}

/// Bias, then z, then affine and activation, then y.
template <class T, int V>
__device__ __forceinline__ void finish(const Merge& p, const Strip& s, int channel, bool aligned,
                                       Acc<T> (&acc)[merge_rows][V]) {
    using A = Acc<T>;
    const auto each = [&](const void* g_vector, bool is_t, auto&& change) {
        if (g_vector == nullptr) return;
#pragma unroll
        for (int c = 0; c < V; ++c) {
            const A value = element<T>(g_vector, is_t, channel + smaller(c, s.count - 1));
#pragma unroll
            for (int v = 0; v < merge_rows; ++v) change(acc[v][c], value);
        }
    };
    each(p.bias, p.bias_is_t, [](A& sum, A value) { sum += value; });
    if (p.z != nullptr) write_strip<T>(p.z, s, aligned, acc);
    each(p.scale, p.scale_is_t, [](A& sum, A value) { sum *= value; });
    each(p.shift, p.shift_is_t, [](A& sum, A value) { sum += value; });
#pragma unroll
    for (int v = 0; v < merge_rows; ++v)
#pragma unroll
        for (int c = 0; c < V; ++c) acc[v][c] = p.relu && acc[v][c] < A(0) ? A(0) : acc[v][c];  // NaN stays
    write_strip<T>(p.y, s, aligned, acc);
}

/// Which product a merge computes itself.
enum class Inside { none, ieee, tf32 };

template <class T, int K, bool ChannelsLast, Inside Product>
__global__ void __launch_bounds__(merge_threads, 3) pyramid_conv_merge_kernel(const __grid_constant__ Merge p) {
    using A = Acc<T>;
    using G = ProductTile<T, Product == Inside::tf32, ChannelsLast>;
    constexpr int V = lane_channels<T, ChannelsLast>;
    __shared__ Source<A> s_rows[pyramid_conv_levels][merge_rows + K - 1];
    const int inner = threadIdx.x % p.width, outer = threadIdx.x / p.width, others = merge_threads / p.width;
    const int cols = ChannelsLast ? others : p.width, slices = ChannelsLast ? p.width : others;
    const int across = ceil_div(p.w, cols), down = ceil_div(p.h, merge_rows), tile = blockIdx.x;
    const int n = tile / (across * down), y0 = tile / across % down * merge_rows, x0 = tile % across * cols;
    const int col = ChannelsLast ? outer : inner, slot = ChannelsLast ? inner : outer, x = x0 + col;
    const int channel = (blockIdx.y * slices + slot) * V, count = p.o - channel;
    A* s_tile = shared_memory<A>();
    find_rows<A, K>(p, y0, s_rows);
    if constexpr (Product != Inside::none)
        multiply_inside<G>(p.operand, p.o, p.h, p.w, n, y0, x0, channel - slot * V, s_tile);
    __syncthreads();
    if (x >= p.w || count <= 0) return;

    const long long pixels = static_cast<long long>(p.h) * p.w, pixel = static_cast<long long>(y0) * p.w + x;
    const int rows = smaller(merge_rows, p.h - y0);
    const Strip s = ChannelsLast
                        ? Strip{(n * pixels + pixel) * p.o + channel, static_cast<long long>(p.w) * p.o, 1, rows, count}
                        : Strip{(static_cast<long long>(n) * p.o + channel) * pixels + pixel, p.w, pixels, rows, count};
    const bool aligned = ChannelsLast && p.aligned;
    A acc[merge_rows][V] = {};
    if constexpr (Product != Inside::none) {
#pragma unroll
        for (int v = 0; v < merge_rows; ++v)
#pragma unroll
            for (int c = 0; c < V; ++c) acc[v][c] = s_tile[(v * tile_cols + col) * G::PITCH + slot * V + c];
    } else if (p.base != nullptr) {
        read_strip<T>(p.base, s, aligned, acc);
    }
    for (int i = 0; i < p.count; ++i) {
        const Level& level = p.levels[i];
        const T* g_level = static_cast<const T*>(level.data) + n * level.strides[0] + channel * level.strides[1];
        if (ChannelsLast && level.aligned && count >= V) {
            add_level<ChannelsLast, T, K>(p, level, s_rows[i], g_level, y0, x, count, acc);
        } else {
            add_level<false, T, K>(p, level, s_rows[i], g_level, y0, x, count, acc);
        }
    }
    finish<T>(p, s, channel, aligned, acc);
}

}  // namespace pk::pyramid_conv
