// What precedes the products' gradients: every cell of every tap gathers from the outputs whose forward positions hold
// it and whose tap reads inside the map. No atomics, one write each, a fixed order of additions.
//
// Owns: a block owns a strip of one row of a level's cells, all its taps and a slice of channels of one image.
// Gathering is separable: first the rows of dz that reach the row of cells are added up, once per row of taps and
// column, into shared memory, `gather_cols` columns at a time; then every cell adds the columns that reach it, its sums
// for all taps in registers. So at scale s dz is read 2 + 2 / s times a level, not 36 times, and what passes through
// shared memory is an s-th of that. A cell that fills the map (a level of one pixel) is reached by all of dz, read by
// as many threads as any other. grid:   x the blocks of all levels in one row, those whose cells reach furthest first
// block:  rows: channels_last: threads along channels, 16 bytes each, then columns; NCHW: along columns, then channels.
//         columns: a thread owns a cell and 16 bytes of accumulators, along channels or along cells likewise
// shared: K rows of taps x 64 columns x 32 accumulators (of double 16): 24,576 bytes (k = 3)
// Bound: writing the gradients at scale 2, k * k / 4 of the output's size; reading dz through L2 above it.
#pragma once

#include "pyramid_conv/level.cuh"

namespace pk::pyramid_conv {

inline constexpr int gather_threads = 256, gather_cols = 64;
/// Threads along channels where cells add columns, and the cells that leaves.
inline constexpr int gather_quads = 8, gather_cells = gather_threads / gather_quads;

struct Gradient {
    Level level;
    int strip, strips;  // cells of a row that a block owns, and how many such make a row
    long long blocks;
};

struct Gradients {
    const void* dz;  // (n, o, h, w)
    bool aligned;    // vectors of its channels are
    int n, o, h, w;
    int count;
    Gradient levels[pyramid_conv_levels];
};

/// What one block owns: `cells` cells from (row, first) on, and channels from `channel` on.
struct Owned {
    int n, channel, row, first, cells;
};

/// Outputs whose taps may read what takes from cells [first, last].
template <class A, int K>
__device__ __forceinline__ Span reached_by_taps(const ResizedAxis& axis, int first, int last) {
    const Span low = axis.reached<A>(first), high = axis.reached<A>(last);
    // A cell that a smaller output skips says nothing about its neighbours.
    return {larger((low.count() ? low : axis.support(first)).first - K / 2, 0),
            smaller((high.count() ? high : axis.support(last)).last + K / 2, axis.full - 1)};
}

/// What cell i brings to the output at d through the axis: d counts only inside the map.
template <class A>
__device__ __forceinline__ A share_inside(const ResizedAxis& axis, int d, int i) {
    return 0 <= d && d < axis.full ? axis.weight<A>(d, i) : A(0);
}

/// The shares of cell i that the K taps of output d hold, moved on from those of d - 1.
template <int K, class A>
__device__ __forceinline__ void move_on(A (&share)[K], const ResizedAxis& axis, int d, int i) {
#pragma unroll
    for (int t = 0; t < K - 1; ++t) share[t] = share[t + 1];
    share[K - 1] = share_inside<A>(axis, d + K / 2, i);
}

/// Those of output d - 1, to be moved on to d.
template <int K, class A>
__device__ __forceinline__ void move_before(A (&share)[K], const ResizedAxis& axis, int d, int i) {
#pragma unroll
    for (int t = 0; t < K; ++t) share[t] = share_inside<A>(axis, d - 1 + t - K / 2, i);
}

/// Where the sums of a row of taps, a column and a quad of channels stand in shared memory: neighbouring threads of
/// either step meet neighbouring quads.
template <class T, bool ChannelsLast>
__device__ __forceinline__ int place(int t, int column, int q) {
    return (t * gather_cols * gather_quads + (ChannelsLast ? column * gather_quads + q : q * gather_cols + column)) *
           quad<T>;
}

/// s_sums = the rows of dz that reach the row of cells, for columns [x0, x0 + cols).
template <bool Whole, class T, int K, bool ChannelsLast>
__device__ __forceinline__ void add_rows(const Gradients& p, const ResizedAxis& axis, const Owned& own, int x0,
                                         int cols, Acc<T>* s_sums) {
    using A = Acc<T>;
    constexpr int V = lane_channels<T, ChannelsLast>, LANES = gather_quads * quad<T> / V;
    constexpr int AHEAD = V > quad<T> && !Whole ? 1 : 4;  // rows under way: element by element they take registers
    const long long pixels = static_cast<long long>(p.h) * p.w;
    const Span rows = reached_by_taps<A, K>(axis, own.row, own.row);
    for (int e = threadIdx.x; e < gather_cols * LANES; e += gather_threads) {
        const int column = ChannelsLast ? e / LANES : e % gather_cols;
        const int lane = (ChannelsLast ? e % LANES : e / gather_cols) * V, channel = own.channel + lane;
        if (column >= cols || channel >= p.o) continue;
        const long long at = ChannelsLast ? (own.n * pixels + x0 + column) * p.o + channel
                                          : (static_cast<long long>(own.n) * p.o + channel) * pixels + x0 + column;
        const T* g_dz = static_cast<const T*>(p.dz) + at;
        const long long step = ChannelsLast ? 1 : pixels, row = static_cast<long long>(p.w) * (ChannelsLast ? p.o : 1);
        alignas(16) A sum[K][V] = {};
        A share[K];
        move_before<K>(share, axis, rows.first, own.row);
        for (int y = rows.first; y <= rows.last; y += AHEAD) {
            Vec<T, V> dz[AHEAD];
#pragma unroll
            for (int a = 0; a < AHEAD; ++a)
                dz[a] = channels_at<Whole, V>(g_dz + smaller(y + a, rows.last) * row, p.o - channel, step);
#pragma unroll
            for (int a = 0; a < AHEAD; ++a) {
                if (y + a > rows.last) break;
                move_on<K>(share, axis, y + a, own.row);
#pragma unroll
                for (int t = 0; t < K; ++t)
#pragma unroll
                    for (int c = 0; c < V; ++c) sum[t][c] += share[t] * widen(dz[a][c]);
            }
        }
#pragma unroll
        for (int t = 0; t < K; ++t)
#pragma unroll
            for (int c = 0; c < V; c += quad<T>) {
                A* s = s_sums + place<T, ChannelsLast>(t, column, (lane + c) / quad<T>);
                *reinterpret_cast<Vec<A>*>(s) = *reinterpret_cast<Vec<A>*>(&sum[t][c]);
            }
    }
}

/// acc[t][d] += the columns [x0, x0 + cols) that reach cell j, for quad q of channels.
template <class T, int K, bool ChannelsLast>
__device__ __forceinline__ void add_columns(const ResizedAxis& axis, const Span& reached, int j, int q, int x0,
                                            int cols, const Acc<T>* s_sums, Vec<Acc<T>> (&acc)[K][K]) {
    using A = Acc<T>;
    const int first = larger(x0, reached.first), last = smaller(x0 + cols - 1, reached.last);
    A share[K];
    move_before<K>(share, axis, first, j);
#pragma unroll 2
    for (int x = first; x <= last; ++x) {
        move_on<K>(share, axis, x, j);
#pragma unroll
        for (int t = 0; t < K; ++t) {
            const Vec<A> sum = *reinterpret_cast<const Vec<A>*>(s_sums + place<T, ChannelsLast>(t, x - x0, q));
#pragma unroll
            for (int d = 0; d < K; ++d)
#pragma unroll
                for (int c = 0; c < quad<T>; ++c) acc[t][d][c] += share[d] * sum[c];
        }
    }
}

/// The gradients of cell j's taps, for channels from `channel` on.
template <class T, int K>
__device__ __forceinline__ void write_cell(const Gradients& p, const Level& level, const Owned& own, int j, int channel,
                                           const Vec<Acc<T>> (&acc)[K][K]) {
    T* g_cell = static_cast<T*>(level.data) + own.n * level.strides[0] + channel * level.strides[1] +
                own.row * level.strides[2] + j * level.strides[3];
#pragma unroll
    for (int t = 0; t < K * K; ++t) {
        Vec<T, quad<T>> r;
#pragma unroll
        for (int c = 0; c < quad<T>; ++c) r[c] = narrow<T>(acc[t / K][t % K][c]);
        store_vec(g_cell + t * p.o * level.strides[1], r, p.o - channel, level.aligned, level.strides[1]);
    }
}

/// What number `block` of a level owns: strips change first, then rows, slices of channels and images.
template <class T>
__device__ __forceinline__ Owned owned_by(const Gradient& gradient, int o, int block) {
    const int rows = gradient.level.y.size, slices = ceil_div(o, gather_quads * quad<T>);
    const int strip = block % gradient.strips, above = block / gradient.strips, slice = above / rows;
    const int first = strip * gradient.strip;
    return {slice / slices, slice % slices * gather_quads * quad<T>, above % rows, first,
            smaller(gradient.strip, gradient.level.x.size - first)};
}

// In double one CTA an SM: two leave too few registers, and the sums spill.
template <class T, int K, bool ChannelsLast>
__global__ void __launch_bounds__(gather_threads, sizeof(T) == 8 ? 1 : 2)
    pyramid_conv_bwd_dlevels_kernel(const __grid_constant__ Gradients p) {
    using A = Acc<T>;
    constexpr int V = lane_channels<T, ChannelsLast>;
    __shared__ __align__(16) A s_sums[K * gather_cols * gather_quads * quad<T>];
    int block = blockIdx.x, i = 0;
    for (; block >= p.levels[i].blocks; ++i) block -= static_cast<int>(p.levels[i].blocks);
    const Level& level = p.levels[i].level;
    const Owned own = owned_by<T>(p.levels[i], p.o, block);
    const int t = threadIdx.x, q = ChannelsLast ? t % gather_quads : t / gather_cells;
    const int cell = ChannelsLast ? t / gather_quads : t % gather_cells, j = own.first + smaller(cell, own.cells - 1);
    const bool live = cell < own.cells && own.channel + q * quad<T> < p.o;
    const bool whole = ChannelsLast && p.aligned && p.o % V == 0;

    const Span all = reached_by_taps<A, K>(level.x, own.first, own.first + own.cells - 1);
    const Span reached = reached_by_taps<A, K>(level.x, j, j);
    Vec<A> acc[K][K] = {};
    for (int x0 = all.first; x0 <= all.last; x0 += gather_cols) {
        const int cols = smaller(gather_cols, all.last - x0 + 1);
        if (whole) {
            add_rows<ChannelsLast, T, K, ChannelsLast>(p, level.y, own, x0, cols, s_sums);
        } else {
            add_rows<false, T, K, ChannelsLast>(p, level.y, own, x0, cols, s_sums);
        }
        __syncthreads();
        if (live) add_columns<T, K, ChannelsLast>(level.x, reached, j, q, x0, cols, s_sums, acc);
        __syncthreads();
    }
    if (live) write_cell<T, K>(p, level, own, j, own.channel + q * quad<T>, acc);
}

}  // namespace pk::pyramid_conv
