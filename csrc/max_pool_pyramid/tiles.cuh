// How both passes of max_pool_pyramid share out a map: a block owns a tile of one image and some units, and holds the
// pixels that the tile's windows reach as well. Threads take vectors: V channels of a pixel (channels_last; a unit is
// V channels) or V pixels of a row (NCHW; a unit is one channel), the first one's column a multiple of V.
#pragma once

#include "common/vec.cuh"
#include "common/walk.cuh"
#include "max_pool_pyramid/max_pool_pyramid.h"

namespace pk::max_pool {

inline constexpr int threads = 256;
inline constexpr int shared_bytes = 96 * 1024;  // two blocks of large tiles per multiprocessor
inline constexpr int usual_bytes = 48 * 1024;   // within which a block takes more units
inline constexpr int most_units = 32, largest_tile = 64, smallest_tile = 8;

struct Tiles {
    int n, c, h, w;
    int reach;        // how far the windows of a tile reach, all levels together
    int rows, cols;   // of a tile; whole vectors in NCHW
    int down, right;  // tiles
    int units;        // per block
    int groups;       // of units
    int area;         // vectors of a unit that a block holds at most
    MaxPools pools;
};

/// Pixels [y0, y1) x [x0, x1).
struct Rect {
    int y0, y1, x0, x1;
    PK_HD bool holds(int y, int x) const { return y0 <= y && y < y1 && x0 <= x && x < x1; }
};

/// What a block owns, and where a held vector lies in shared memory: units of a pixel side by side, or planes.
template <bool ChannelsLast, int V>
struct Owned {
    static constexpr int across = ChannelsLast ? 1 : V, deep = ChannelsLast ? V : 1;  // columns, channels of a vector
    int n, first_unit;
    Rect tile, held;
    int units, area, c, h, w;

    __device__ explicit Owned(const Tiles& t) : units(t.units), area(t.area), c(t.c), h(t.h), w(t.w) {
        int b = blockIdx.x;
        const int right = b % t.right, down = b / t.right % t.down;
        b /= t.right * t.down;
        first_unit = b % t.groups * t.units, n = b / t.groups;
        const int y0 = down * t.rows, x0 = right * t.cols;
        tile = {y0, smaller(y0 + t.rows, h), x0, smaller(x0 + t.cols, w)};
        held = {0, h, 0, w};
        held = grown(tile, t.reach, t.reach);
    }

    /// `r` with `dy` rows and `dx` columns more on either side, as far as pixels are held, from a vector's start on.
    __device__ Rect grown(const Rect& r, int dy, int dx) const {
        return {larger(r.y0 - dy, held.y0), smaller(r.y1 + dy, held.y1), larger(r.x0 - dx, held.x0) / across * across,
                smaller(r.x1 + dx, held.x1)};
    }
    __device__ int right_step() const { return ChannelsLast ? units : 1; }
    __device__ int down_step() const { return ceil_div(held.x1 - held.x0, across) * right_step(); }

    /// Call `body(channel, y, x, slot)` for every vector of every unit of `r`, by the whole block.
    template <class Body>
    __device__ __forceinline__ void each(const Rect& r, Body&& body) const {
        const int cols = ceil_div(r.x1 - r.x0, across), rows = r.y1 - r.y0, down = down_step();
        BoxWalk at(threadIdx.x, threads, ChannelsLast ? units : cols, ChannelsLast ? cols : rows);
        for (; at.z < (ChannelsLast ? rows : units); at.next()) {
            const int unit = ChannelsLast ? at.in.x : at.z, col = ChannelsLast ? at.in.y : at.in.x;
            const int y = r.y0 + (ChannelsLast ? at.z : at.in.y), x = r.x0 + col * across;
            const int slot = (y - held.y0) * down + (x - held.x0) / across * right_step();
            body((first_unit + unit) * deep, y, x, slot + (ChannelsLast ? unit : unit * area));
        }
    }

    /// How many elements of the vector at a channel and column exist.
    __device__ int count(int channel, int x) const { return ChannelsLast ? c - channel : channel < c ? w - x : 0; }
    /// And how many of those the tile has.
    __device__ int count_owned(int channel, int x) const {
        return ChannelsLast ? c - channel : channel < c ? tile.x1 - x : 0;
    }
};

/// The first element of a vector in one of `maps` maps side by side in a dense tensor.
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
__device__ __forceinline__ Vec<T, V> read(const T* g, int count, long long stride, T fill) {
    return load_vec<V>(g, count, is_aligned(g, V * sizeof(T)), stride, fill);
}

template <int V, class T>
__device__ __forceinline__ void write(T* g, const Vec<T, V>& v, int count) {
    store_vec(g, v, count, is_aligned(g, V * sizeof(T)), 1);
}

}  // namespace pk::max_pool
