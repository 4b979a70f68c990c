// Forward of max_pool_pyramid: one read of x, separable maxima in shared memory, one write of the concat. Along rows
// first: then the first maximum of the first row that has it is the first one of the square window.
//
// grid:   x tiles x groups of units x images
// block:  a thread takes every 256th unit of a pixel
// shared: x, or the last level of a cascade; maxima along rows and, for a gradient, where in the row they are
// Bound by reads of shared memory and comparisons: about 10 of a unit per level of SPPF, 54 in all for SPP with a
// gradient. A level of a cascade covers what the following ones reach, too.
#pragma once

#include "common/scalar.cuh"
#include "max_pool_pyramid/tiles.cuh"

namespace pk::max_pool {

/// Bytes of dynamic shared memory per unit of a held pixel.
template <class T, int V, bool Keep>
inline constexpr int fwd_bytes = V * (2 * sizeof(T) + Keep);

/// The first maximum, or the last NaN, of elements that come in order; `at` is where it was.
template <class T, int V>
struct Running {
    Acc<T> best[V];
    int at[V];

    __device__ __forceinline__ void start(const Vec<T, V>& v, int i) {
#pragma unroll
        for (int k = 0; k < V; ++k) best[k] = widen(v[k]), at[k] = i;
    }
    __device__ __forceinline__ void take(const Vec<T, V>& v, int i) {
#pragma unroll
        for (int k = 0; k < V; ++k) {
            const Acc<T> value = widen(v[k]);
            if (value > best[k] || value != value) best[k] = value, at[k] = i;
        }
    }
    __device__ __forceinline__ Vec<T, V> values() const {
        Vec<T, V> v;
#pragma unroll
        for (int k = 0; k < V; ++k) v[k] = narrow<T>(best[k]);
        return v;
    }
};

template <class T, bool ChannelsLast, bool Keep>
struct Forward {
    static constexpr int V = ChannelsLast ? vec_size<T> : 1;
    using Values = Vec<T, V>;
    using Places = Vec<uint8_t, V>;
    const MaxPoolPyramidFwdParams& p;
    const Tiles& t;
    Owned<ChannelsLast> own;
    Values *s_x, *s_row;  // [area * units]
    Places* s_place;      // [area * units] columns of a window, or null

    __device__ Forward(const MaxPoolPyramidFwdParams& params, const Tiles& tiles) : p(params), t(tiles), own(tiles) {
        s_x = shared_memory<Values>();
        s_row = s_x + t.area * t.units;
        s_place = Keep ? reinterpret_cast<Places*>(s_row + t.area * t.units) : nullptr;
    }

    __device__ __forceinline__ void write_level(int level, int unit, int y, int x, const Values& v) const {
        const int map = place_of(t.pools, level), channel = unit * V;
        T* g_y = static_cast<T*>(p.y) + dense<ChannelsLast>(t, 1 + t.pools.levels, map, own.n, channel, y, x);
        write<V>(g_y, v, t.c - channel);
    }

    __device__ void read_x() const {
        own.each(own.held, [&](int unit, int y, int x, int slot) {
            const int channel = unit * V;
            const T* g_x = static_cast<const T*>(p.x) + strided(p.problem.strides, own.n, channel, y, x);
            const Values v = read<V>(g_x, t.c - channel, p.problem.strides[1], T(0.0f));
            s_x[slot] = v;
            if (own.tile.holds(y, x)) write_level(0, unit, y, x, v);
        });
    }

    /// Maxima along the rows of `r`.
    __device__ void pool_rows(const Rect& r, int radius) const {
        own.each(r, [&](int, int, int x, int slot) {
            const int low = larger(-radius, -x), high = smaller(radius, t.w - 1 - x);
            Running<T, V> running;
            running.start(s_x[slot + low * own.right_step()], low + radius);
            for (int d = low + 1; d <= high; ++d) running.take(s_x[slot + d * own.right_step()], d + radius);
            s_row[slot] = running.values();
            if constexpr (Keep)
                for (int k = 0; k < V; ++k) s_place[slot][k] = static_cast<uint8_t>(running.at[k]);
        });
    }

    /// Maxima along the columns of those along rows; `onward`: the next level pools them.
    __device__ void pool_columns(const Rect& r, int level, int radius, bool onward) const {
        own.each(r, [&](int unit, int y, int x, int slot) {
            const int low = larger(-radius, -y), high = smaller(radius, t.h - 1 - y);
            Running<T, V> running;
            running.start(s_row[slot + low * own.down_step()], low);
            for (int d = low + 1; d <= high; ++d) running.take(s_row[slot + d * own.down_step()], d);
            const Values v = running.values();
            if (onward) s_x[slot] = v;
            if (!own.tile.holds(y, x)) return;
            write_level(level, unit, y, x, v);
            if constexpr (Keep) {
                Places place;
#pragma unroll
                for (int k = 0; k < V; ++k) {
                    const int column = s_place[slot + running.at[k] * own.down_step()][k];
                    place[k] = static_cast<uint8_t>((running.at[k] + radius) * (2 * radius + 1) + column);
                }
                const int channel = unit * V;
                const long long at = dense<ChannelsLast>(t, t.pools.levels, level - 1, own.n, channel, y, x);
                write<V>(p.indices + at, place, t.c - channel);
            }
        });
    }

    __device__ void run() const {
        read_x();
        int ahead = t.reach;  // how far the levels from here on reach in a cascade
        for (int level = 1; level <= t.pools.levels; ++level) {
            const int radius = t.pools.size[level - 1] / 2;
            ahead -= radius;
            const int around = t.pools.cascade ? ahead : 0;
            const Rect target = own.grown(own.tile, around, around);
            __syncthreads();
            pool_rows(own.grown(target, radius, 0), radius);
            __syncthreads();
            pool_columns(target, level, radius, t.pools.cascade && level < t.pools.levels);
        }
    }
};

}  // namespace pk::max_pool

namespace pk {

template <class T, bool ChannelsLast, bool Keep>
__global__ void __launch_bounds__(max_pool::threads, 3)
    max_pool_pyramid_fwd_kernel(const __grid_constant__ MaxPoolPyramidFwdParams p,
                                const __grid_constant__ max_pool::Tiles tiles) {
    max_pool::Forward<T, ChannelsLast, Keep>(p, tiles).run();
}

}  // namespace pk
