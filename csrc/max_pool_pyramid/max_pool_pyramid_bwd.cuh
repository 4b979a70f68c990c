// Backward of max_pool_pyramid: every element of dx is the sum, in fixed order, of what the windows that chose it
// bring; nothing is added atomically. All windows around a column that chose in the same row chose the same pixel of
// it, so gradients go to the chosen row first and from there to the chosen column: 2 k reads per level, not k * k.
//
// grid:   x tiles x groups of units x images
// block:  a thread takes every 256th vector
// shared: gradients of a level and its places; the same once gathered along columns; the sum of the levels so far,
//         which in a cascade is the gradient of the level below
// Bound by reads of shared memory and comparisons, about 54 of a unit for SPP.
#pragma once

#include "common/scalar.cuh"
#include "max_pool_pyramid/tiles.cuh"

namespace pk::max_pool {

/// Elements of a vector: 16 bytes of sums.
template <class T>
inline constexpr int bwd_vector = vec_size<Acc<T>>;

template <class T, int V>
constexpr int bwd_bytes(bool cascade) {
    return V * ((cascade ? 2 : 3) * sizeof(Acc<T>) + 2);
}

template <class T, bool ChannelsLast>
struct Backward {
    static constexpr int V = bwd_vector<T>;
    static constexpr uint8_t nowhere = 255;
    using A = Acc<T>;
    using Sums = Vec<A, V>;
    using Places = Vec<uint8_t, V>;
    const MaxPoolPyramidBwdParams& p;
    const Tiles& t;
    Owned<ChannelsLast, V> own;
    Sums *s_dy, *s_row, *s_sum;  // [area * units]
    Places *s_place, *s_column;  // [area * units] places in windows, and their columns

    __device__ Backward(const MaxPoolPyramidBwdParams& params, const Tiles& tiles) : p(params), t(tiles), own(tiles) {
        const int count = t.area * t.units;
        s_dy = shared_memory<Sums>();
        s_row = s_dy + count;
        s_sum = t.pools.cascade ? s_dy : s_row + count;
        s_place = reinterpret_cast<Places*>((t.pools.cascade ? s_row : s_sum) + count);
        s_column = s_place + count;
    }

    /// A level's incoming gradient.
    __device__ __forceinline__ Sums read_dy(int level, int channel, int y, int x) const {
        const long long place = static_cast<long long>(place_of(t.pools, level)) * t.c + channel;
        const T* g_dy = static_cast<const T*>(p.dy) + strided(p.problem.strides, own.n, place, y, x);
        const Vec<T, V> v = read<V>(g_dy, own.count(channel, x), p.problem.strides[ChannelsLast ? 1 : 3], T(0.0f));
        Sums wide;
#pragma unroll
        for (int k = 0; k < V; ++k) wide[k] = widen(v[k]);
        return wide;
    }

    /// What one level's windows around `r` chose, and their gradients unless the level above has left them.
    __device__ void read_level(const Rect& r, int level, bool given) const {
        own.each(r, [&](int channel, int y, int x, int slot) {
            const long long at = dense<ChannelsLast>(t, t.pools.levels, level - 1, own.n, channel, y, x);
            s_place[slot] = read<V>(p.indices + at, own.count(channel, x), 1, nowhere);
            if (!given) s_dy[slot] = read_dy(level, channel, y, x);
        });
    }

    /// For every pixel of `r`, the windows around its column that chose a pixel in its row.
    __device__ void gather_rows(const Rect& r, int radius) const {
        const unsigned size = 2 * radius + 1;
        own.each(r, [&](int, int y, int, int slot) {
            const int low = larger(-radius, -y), high = smaller(radius, t.h - 1 - y);
            Sums sum{};
            Places column;
#pragma unroll
            for (int k = 0; k < V; ++k) column[k] = nowhere;
            for (int d = low; d <= high; ++d) {
                const int from = slot + d * own.down_step(), first = (radius - d) * size;
                const Places place = s_place[from];
                const Sums dy = s_dy[from];
#pragma unroll
                for (int k = 0; k < V; ++k) {
                    const unsigned at = place[k] - first;  // a column, in the row that d is
                    if (at < size) sum[k] += dy[k], column[k] = static_cast<uint8_t>(at);
                }
            }
            s_row[slot] = sum, s_column[slot] = column;
        });
    }

    /// sum += what windows along its row bring to the pixel at s_row[slot].
    __device__ __forceinline__ void add_pixels(Sums& sum, int x, int slot, int radius) const {
        const int low = larger(-radius, -x), high = smaller(radius, t.w - 1 - x);
        for (int d = low; d <= high; ++d) {
            const int from = slot + d * own.right_step();
            const Places column = s_column[from];
            const Sums row = s_row[from];
#pragma unroll
            for (int k = 0; k < V; ++k)
                if (column[k] == radius - d) sum[k] += row[k];
        }
    }

    /// sum += what windows along their row bring to the pixels from x on at s_row[slot]: each to the one it chose.
    __device__ __forceinline__ void add_runs(Sums& sum, int x, int slot, int radius) const {
        const int runs = ceil_div(radius, V);
        const int low = larger(-runs, (own.held.x0 - x) / V), high = smaller(runs, (own.held.x1 - 1 - x) / V);
        for (int run = low; run <= high; ++run) {
            const Places column = s_column[slot + run];
            const Sums row = s_row[slot + run];
#pragma unroll
            for (int i = 0; i < V; ++i) {
                const int chosen = column[i] - radius + run * V + i;
#pragma unroll
                for (int k = 0; k < V; ++k)
                    if (chosen == k) sum[k] += row[i];
            }
        }
    }

    /// For every pixel of `r`, those in its row that chose its column, and what the level or x itself brings.
    __device__ void gather_columns(const Rect& r, int level, int radius) const {
        const bool sums = !t.pools.cascade && level < t.pools.levels;
        own.each(r, [&](int channel, int y, int x, int slot) {
            Sums sum = sums ? s_sum[slot] : read_dy(t.pools.cascade ? level - 1 : 0, channel, y, x);
            if constexpr (ChannelsLast) {
                add_pixels(sum, x, slot, radius);
            } else {
                add_runs(sum, x, slot, radius);
            }
            if (level > 1) {
                s_sum[slot] = sum;
                return;
            }
            Vec<T, V> dx;
#pragma unroll
            for (int k = 0; k < V; ++k) dx[k] = narrow<T>(sum[k]);
            T* g_dx = static_cast<T*>(p.dx) + dense<ChannelsLast>(t, 1, 0, own.n, channel, y, x);
            write<V>(g_dx, dx, own.count_owned(channel, x));
        });
    }

    __device__ void run() const {
        int behind = t.reach;  // how far the levels down to x reach in a cascade
        for (int level = t.pools.levels; level >= 1; --level) {
            const int radius = t.pools.size[level - 1] / 2;
            behind -= radius;
            const int around = t.pools.cascade ? behind : 0;
            const Rect target = own.grown(own.tile, around, around);
            read_level(own.grown(target, radius, radius), level, t.pools.cascade && level < t.pools.levels);
            __syncthreads();
            gather_rows(own.grown(target, 0, radius), radius);
            __syncthreads();
            gather_columns(target, level, radius);
        }
    }
};

}  // namespace pk::max_pool

namespace pk {

template <class T, bool ChannelsLast>
__global__ void __launch_bounds__(max_pool::threads, 3)
    max_pool_pyramid_bwd_dx_kernel(const __grid_constant__ MaxPoolPyramidBwdParams p,
                                   const __grid_constant__ max_pool::Tiles tiles) {
    max_pool::Backward<T, ChannelsLast>(p, tiles).run();
}

}  // namespace pk
