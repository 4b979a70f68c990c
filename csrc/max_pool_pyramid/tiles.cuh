// How both passes of max_pool_pyramid share out a map: a block owns a tile of one image and some units, each of which
// is a vector of channels (channels_last) or one channel (NCHW), and holds the pixels that the tile's windows reach as
// well.
#pragma once

#include "common/vec.cuh"
#include "max_pool_pyramid/max_pool_pyramid.h"

namespace pk::max_pool {

inline constexpr int threads = 256;
inline constexpr int shared_bytes = 96 * 1024;  // two blocks of large tiles per multiprocessor
inline constexpr int usual_bytes = 48 * 1024;   // within which a block takes more units
inline constexpr int most_units = 32, largest_tile = 64, smallest_tile = 8;

struct Tiles {
    int n, c, h, w;
    int reach;        // how far the windows of a tile reach, all levels together
    int rows, cols;   // of a tile
    int down, right;  // tiles
    int units;        // per block
    int groups;       // of units
    int area;         // pixels that a block holds at most
    MaxPools pools;
};

/// Pixels [y0, y1) x [x0, x1).
struct Rect {
    int y0, y1, x0, x1;
    PK_HD int cols() const { return x1 - x0; }
    PK_HD int area() const { return (y1 - y0) * cols(); }
    PK_HD bool holds(int y, int x) const { return y0 <= y && y < y1 && x0 <= x && x < x1; }
};

/// What a block owns, and where a held pixel lies in shared memory: units of a pixel side by side, or planes.
template <bool ChannelsLast>
struct Owned {
    int n, first_unit;
    Rect tile, held;
    int units, area, h, w;

    __device__ explicit Owned(const Tiles& t) : units(t.units), area(t.area), h(t.h), w(t.w) {
        int b = blockIdx.x;
        const int right = b % t.right, down = b / t.right % t.down;
        b /= t.right * t.down;
        first_unit = b % t.groups * t.units, n = b / t.groups;
        const int y0 = down * t.rows, x0 = right * t.cols;
        tile = {y0, smaller(y0 + t.rows, h), x0, smaller(x0 + t.cols, w)};
        held = grown(tile, t.reach, t.reach);
    }

    /// `r` with `dy` rows and `dx` columns more on either side, as far as the map goes.
    __device__ Rect grown(const Rect& r, int dy, int dx) const {
        return {larger(r.y0 - dy, 0), smaller(r.y1 + dy, h), larger(r.x0 - dx, 0), smaller(r.x1 + dx, w)};
    }
    __device__ int right_step() const { return ChannelsLast ? units : 1; }
    __device__ int down_step() const { return held.cols() * right_step(); }

    /// Call `body(unit, y, x, slot)` for every unit of every pixel of `r`, by the whole block.
    template <class Body>
    __device__ __forceinline__ void each(const Rect& r, Body&& body) const {
        const int pixels = r.area(), cols = r.cols();
        for (int i = threadIdx.x; i < pixels * units; i += threads) {
            const int unit = ChannelsLast ? i % units : i / pixels, pixel = ChannelsLast ? i / units : i % pixels;
            const int y = r.y0 + pixel / cols, x = r.x0 + pixel % cols;
            const int slot = (y - held.y0) * down_step() + (x - held.x0) * right_step();
            body(first_unit + unit, y, x, slot + (ChannelsLast ? unit : unit * area));
        }
    }
};

/// The first element of a unit in one of `maps` maps side by side in a dense tensor.
template <bool ChannelsLast>
__device__ __forceinline__ long long dense(const Tiles& t, int maps, int map, int n, int channel, int y, int x) {
    const long long total = static_cast<long long>(maps) * t.c, at = static_cast<long long>(map) * t.c + channel;
    return ChannelsLast ? ((n * static_cast<long long>(t.h) + y) * t.w + x) * total + at
                        : ((n * total + at) * t.h + y) * t.w + x;
}

/// The same in a tensor of any strides.
__device__ __forceinline__ long long strided(const int64_t (&strides)[4], int n, long long channel, int y, int x) {
    return n * strides[0] + channel * strides[1] + y * strides[2] + x * strides[3];
}

/// Where the concat holds a level; 0 is x.
PK_HD int place_of(const MaxPools& pools, int level) { return pools.descending ? pools.levels - level : level; }

template <int V, class T>
__device__ __forceinline__ Vec<T, V> read(const T* g, int channels, long long stride, T fill) {
    return load_vec<V>(g, channels, is_aligned(g, V * sizeof(T)), stride, fill);
}

template <int V, class T>
__device__ __forceinline__ void write(T* g, const Vec<T, V>& v, int channels) {
    store_vec(g, v, channels, is_aligned(g, V * sizeof(T)), 1);
}

}  // namespace pk::max_pool
