// Forward of max_pool_pyramid: one read of x, separable maxima in shared memory, one write of the concat. Along rows
// first: then the first maximum of the first row that has it is the first one of the square window.
//
// grid:   x tiles x groups of units x images
// block:  a thread takes every 256th vector
// shared: x, or the last level of a cascade; maxima along rows and, for a gradient, where in the row they are
// Bound by reads of shared memory and comparisons: about 10 of a unit per level of SPPF, 54 in all for SPP with a
// gradient. A level of a cascade covers what the following ones reach, too.
#pragma once

#include "common/ptx/max.cuh"
#include "common/scalar.cuh"
#include "max_pool_pyramid/tiles.cuh"

namespace pk::max_pool {

/// Elements of a vector.
template <class T, bool ChannelsLast>
inline constexpr int fwd_vector = ChannelsLast ? vec_size<T> : smaller(4, vec_size<T>);

/// Bytes of dynamic shared memory per held vector.
template <class T, int V, bool Keep>
inline constexpr int fwd_bytes = V * (2 * sizeof(T) + Keep);

/// The maximum, or NaN, of elements that come in order. Vectors are passed by value: what refers to shared memory is
/// read element by element.
template <class T, int V, bool Keep>
struct Running {
    Vec<T, V> best;

    __device__ __forceinline__ void start(Vec<T, V> v, int) { best = v; }
    __device__ __forceinline__ void take(Vec<T, V> v, int) { best = max_nan(best, v); }
    __device__ __forceinline__ Vec<T, V> values() const { return best; }
};

/// The first maximum, or the last NaN; `at` is where it was.
template <class T, int V>
struct Running<T, V, true> {
    Acc<T> best[V];
    int at[V];

    __device__ __forceinline__ void start(Vec<T, V> v, int i) {
#pragma unroll
        for (int k = 0; k < V; ++k) best[k] = widen(v[k]), at[k] = i;
    }
    __device__ __forceinline__ void take(Vec<T, V> v, int i) {
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
    static constexpr int V = fwd_vector<T, ChannelsLast>;
    using Values = Vec<T, V>;
    using Places = Vec<uint8_t, V>;
    const MaxPoolPyramidFwdParams& p;
    const Tiles& t;
    Owned<ChannelsLast, V> own;
    Values *s_x, *s_row;  // [area * units]
    Places* s_place;      // [area * units] columns of a window, or null

    __device__ Forward(const MaxPoolPyramidFwdParams& params, const Tiles& tiles) : p(params), t(tiles), own(tiles) {
        s_x = shared_memory<Values>();
        s_row = s_x + t.area * t.units;
        s_place = Keep ? reinterpret_cast<Places*>(s_row + t.area * t.units) : nullptr;
    }

    __device__ __forceinline__ void write_level(int level, int channel, int y, int x, Values v) const {
        const int map = place_of(t.pools, level);
        T* g_y = static_cast<T*>(p.y) + dense<ChannelsLast>(t, 1 + t.pools.levels, map, own.n, channel, y, x);
        write<V>(g_y, v, own.count_owned(channel, x));
    }

    __device__ void read_x() const {
        own.each(own.held, [&](int channel, int y, int x, int slot) {
            const T* g_x = static_cast<const T*>(p.x) + strided(p.problem.strides, own.n, channel, y, x);
            const Values v = read<V>(g_x, own.count(channel, x), p.problem.strides[ChannelsLast ? 1 : 3], T(0.0f));
            s_x[slot] = v;
            if (own.tile.holds(y, x)) write_level(0, channel, y, x, v);
        });
    }

    /// Maxima along a row, of the pixel at s_x[slot].
    __device__ __forceinline__ void pool_pixel(Running<T, V, Keep>& running, int x, int slot, int radius) const {
        const int low = larger(-radius, -x), high = smaller(radius, t.w - 1 - x);
        running.start(s_x[slot + low * own.right_step()], low + radius);
#pragma unroll 4
        for (int d = low + 1; d <= high; ++d) running.take(s_x[slot + d * own.right_step()], d + radius);
    }

    /// The vector of pixels from column x on, at s_x[slot]; minus infinity beyond what is held.
    __device__ __forceinline__ Values held_at(int x, int slot) const {
        Values v;
#pragma unroll
        for (int k = 0; k < V; ++k) v[k] = narrow<T>(Acc<T>(-INFINITY));
        if (x < own.held.x0 || x >= own.held.x1) return v;
        const Values held = s_x[slot];
        if (x + V <= own.held.x1) return held;
#pragma unroll
        for (int k = 0; k < V; ++k)
            if (x + k < own.held.x1) v[k] = held[k];
        return v;
    }

    /// Maxima along a row, of the pixels from x on at s_x[slot]: two vectors hold what V neighbours read.
    __device__ __forceinline__ void pool_run(Running<T, V, Keep>& running, int x, int slot, int radius) const {
        Values v;
#pragma unroll
        for (int k = 0; k < V; ++k) v[k] = narrow<T>(Acc<T>(-INFINITY));
        running.start(v, 0);
        if constexpr (Keep)  // where a window of nothing but minus infinity begins
#pragma unroll
            for (int k = 0; k < V; ++k) running.at[k] = larger(radius - x - k, 0);
        int first = -ceil_div(radius, V);
        Values low, high = held_at(x + first * V, slot + first);
        for (; first * V <= radius; ++first) {
            low = high, high = held_at(x + (first + 1) * V, slot + first + 1);
#pragma unroll
            for (int i = 0; i < V; ++i) {
                const int d = first * V + i;
                if (d < -radius || d > radius) continue;
#pragma unroll
                for (int k = 0; k < V; ++k) v[k] = i + k < V ? low[i + k] : high[i + k - V];
                running.take(v, d + radius);
            }
        }
    }

    /// Maxima along the rows of `r`.
    __device__ void pool_rows(const Rect& r, int radius) const {
        own.each(r, [&](int, int, int x, int slot) {
            Running<T, V, Keep> running;
            if constexpr (ChannelsLast) {
                pool_pixel(running, x, slot, radius);
            } else {
                pool_run(running, x, slot, radius);
            }
            s_row[slot] = running.values();
            if constexpr (Keep) {
                Places place;
#pragma unroll
                for (int k = 0; k < V; ++k) place[k] = static_cast<uint8_t>(running.at[k]);
                s_place[slot] = place;
            }
        });
    }

    /// Maxima along the columns of those along rows; `onward`: the next level pools them.
    __device__ void pool_columns(const Rect& r, int level, int radius, bool onward) const {
        own.each(r, [&](int channel, int y, int x, int slot) {
            const int low = larger(-radius, -y), high = smaller(radius, t.h - 1 - y), down = own.down_step();
            Running<T, V, Keep> running;
            running.start(s_row[slot + low * down], low);
#pragma unroll 4
            for (int d = low + 1; d <= high; ++d) running.take(s_row[slot + d * down], d);
            const Values v = running.values();
            if (onward) s_x[slot] = v;
            if (!own.tile.holds(y, x)) return;
            write_level(level, channel, y, x, v);
            if constexpr (Keep) {
                Places place;
#pragma unroll
                for (int k = 0; k < V; ++k) {
                    const int column = s_place[slot + running.at[k] * down][k];
                    place[k] = static_cast<uint8_t>((running.at[k] + radius) * (2 * radius + 1) + column);
                }
                const long long at = dense<ChannelsLast>(t, t.pools.levels, level - 1, own.n, channel, y, x);
                write<V>(p.indices + at, place, own.count_owned(channel, x));
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
