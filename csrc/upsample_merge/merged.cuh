// The merged value of output pixels before affine and activation: what the forward writes and the gradient of scale
// needs again. A thread holds K x V values in registers: all maps are added in the accumulator's type, rounded once.
#pragma once

#include "common/resample.h"
#include "common/scalar.cuh"
#include "common/vec.cuh"
#include "upsample_merge/upsample_merge.h"

namespace pk::upsample_merge {

/// Threads of a block at most.
inline constexpr int merge_threads = 128;
/// Pixels that a thread of an NCHW kernel owns side by side. Four of a 16-bit type fill 8 bytes only, because lanes
/// that gather further apart touch more cache lines per load than wider stores save.
template <class T>
inline constexpr int pixels_of = sizeof(T) == 8 ? 2 : 4;
/// Channels of those pixels, over which positions and weights are computed once: where sums are kept of each, and where
/// they are only written.
inline constexpr int slab = 4;
template <class T>
inline constexpr int wide_slab = sizeof(T) == 2 ? 8 : slab;
/// Pixels of one channel vector that a thread of a channels_last kernel has under way together, and vectors of dy.
inline constexpr int pixels_deep = 2, gradients_deep = 4;

struct Map {
    const void* data;  // (n, c, h, w)
    int c, first;      // channels, and the first one's place in the output
    int64_t strides[4];
    ResizedAxis y, x;
    bool flat;     // taken, with one stride from pixel to pixel
    bool aligned;  // vectors may be read: of pixels where the output is NCHW (and the map flat), else of channels
    int slice;     // channels that one block takes; channels_last: a power of two of vectors, a thread each
};

struct Maps {
    int n, c, h, w;  // of the output
    bool sum;
    int count;
    Map maps[upsample_merge_maps];
};

/// A block's channels: of one map of a concat, or of all maps of a sum.
struct Slice {
    int from, to;  // maps
    int start;     // first channel in the map
    int channels;  // from there to the map's end
    int out;       // first channel in the output
};

__device__ __forceinline__ Slice slice_of(const Maps& m, int tile) {
    int i = 0;
    for (; !m.sum && tile >= ceil_div(m.maps[i].c, m.maps[i].slice); ++i)
        tile -= ceil_div(m.maps[i].c, m.maps[i].slice);
    const int start = tile * m.maps[i].slice;
    return {i, m.sum ? m.count : i + 1, start, m.maps[i].c - start, m.maps[i].first + start};
}

/// The four source elements of one output pixel, from its first in the image and channel on, and what each contributes.
template <class A>
struct Corners {
    int at[2][2];
    A weight[2][2];
};

template <class A>
__device__ __forceinline__ Corners<A> corners(const Map& map, const Taps<A>& down, const Taps<A>& right) {
    const int down_step = static_cast<int>(map.strides[2]), right_step = static_cast<int>(map.strides[3]);
    const int rows[] = {down.low * down_step, down.high * down_step};
    const int cols[] = {right.low * right_step, right.high * right_step};
    const A shares[][2] = {{A(1) - down.above, down.above}, {A(1) - right.above, right.above}};
    Corners<A> r;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 2; ++j) r.at[i][j] = rows[i] + cols[j], r.weight[i][j] = shares[0][i] * shares[1][j];
    return r;
}

/// Whether an output is a mean of several source elements, not one of them.
__device__ __forceinline__ bool blends(const Map& map) {
    return map.y.how == Resample::half_pixel || map.y.how == Resample::align_corners;
}

// Below, channels and pixels beyond the end read the last one again, so that no branch keeps loads from being under way
// together; they are never written.

/// acc[k][v] += a flat map at channel k, pixel p + v. Whole: by vectors.
template <bool Whole, class T, int K, int V>
__device__ __forceinline__ void add_flat(const Map& map, const T* g_map, int channels, int p, int pixels,
                                         Acc<T> (&acc)[K][V]) {
    const int64_t step = map.strides[3];
    Vec<T, V> r[K];
#pragma unroll
    for (int k = 0; k < K; ++k) {
        const T* g_plane = g_map + smaller(k, channels - 1) * map.strides[1] + p * step;
        r[k] = load_vec<V>(g_plane, Whole ? V : pixels - p, Whole, Whole ? 1 : step, narrow<T>(Acc<T>(0)));
    }
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
        for (int v = 0; v < V; ++v) acc[k][v] += widen(r[k][v]);
}

/// acc[k][v] += any map at channel k, pixel p + v of an output of `pixels`, `w` to a row.
template <bool Blended, class T, int K, int V>
__device__ __forceinline__ void add_planes(const Map& map, const T* g_map, int channels, int p, int pixels, int w,
                                           Acc<T> (&acc)[K][V]) {
    int y = p / w, x = p % w;
    Taps<Acc<T>> down = map.y.source<Acc<T>>(y);
#pragma unroll
    for (int v = 0; v < V; ++v) {
        const Corners<Acc<T>> c = corners(map, down, map.x.source<Acc<T>>(x));
#pragma unroll
        for (int k = 0; k < K; ++k) {
            const T* g_plane = g_map + smaller(k, channels - 1) * map.strides[1];
#pragma unroll
            for (int corner = 0; corner < (Blended ? 4 : 1); ++corner) {
                const Acc<T> value = widen(g_plane[c.at[corner / 2][corner % 2]]);
                acc[k][v] += Blended ? c.weight[corner / 2][corner % 2] * value : value;
            }
        }
        if (p + v + 1 < pixels && ++x == w) x = 0, down = map.y.source<Acc<T>>(++y);
    }
}

/// acc[k][v] += the slice's maps at channel k, pixel p + v of image n. NCHW outputs: lanes lie along pixels.
template <class T, int K, int V>
__device__ __forceinline__ void merge_planes(const Maps& m, const Slice& s, int n, int p, Acc<T> (&acc)[K][V]) {
    const int pixels = m.h * m.w;
    for (int i = s.from; i < s.to; ++i) {
        const Map& map = m.maps[i];
        const T* g_map = static_cast<const T*>(map.data) + n * map.strides[0] + s.start * map.strides[1];
        if (map.flat && map.aligned && p + V <= pixels) {
            add_flat<true>(map, g_map, s.channels, p, pixels, acc);
        } else if (map.flat) {
            add_flat<false>(map, g_map, s.channels, p, pixels, acc);
        } else if (blends(map)) {
            add_planes<true>(map, g_map, s.channels, p, pixels, m.w, acc);
        } else {
            add_planes<false>(map, g_map, s.channels, p, pixels, m.w, acc);
        }
    }
}

template <class A>
__device__ __forceinline__ Corners<A> corners_at(const Maps& m, const Map& map, int pixel) {
    return corners(map, map.y.source<A>(pixel / m.w), map.x.source<A>(pixel % m.w));
}

/// acc[k][v] += the map at channel v of `count`, pixel k, whose corners `at(k)` has. Whole: by vectors, all of them
/// under way together.
template <bool Whole, bool Blended, class T, int K, int V, class At>
__device__ __forceinline__ void add_pixels(const Map& map, const T* g_map, int count, Acc<T> (&acc)[K][V], At&& at) {
    constexpr int N = Blended ? 4 : 1;
    Vec<T, V> r[K][N];
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
        for (int corner = 0; corner < N; ++corner)
            r[k][corner] = load_vec<V>(g_map + at(k).at[corner / 2][corner % 2], Whole ? V : count, Whole,
                                       Whole ? 1 : map.strides[1], narrow<T>(Acc<T>(0)));
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
        for (int corner = 0; corner < N; ++corner) {
            const Acc<T> weight = at(k).weight[corner / 2][corner % 2];
#pragma unroll
            for (int v = 0; v < V; ++v) acc[k][v] += Blended ? weight * widen(r[k][corner][v]) : widen(r[k][corner][v]);
        }
}

/// acc[k][v] += the slice's maps at channel `lane + v` of it, pixel k of image n, whose corners in map i `at(i, k)`
/// has. channels_last outputs.
template <class T, int K, int V, class At>
__device__ __forceinline__ void merge_pixels(const Maps& m, const Slice& s, int lane, int n, Acc<T> (&acc)[K][V],
                                             At&& at) {
    const int count = s.channels - lane;
    for (int i = s.from; i < s.to; ++i) {
        const Map& map = m.maps[i];
        const T* g_map = static_cast<const T*>(map.data) + n * map.strides[0] + (s.start + lane) * map.strides[1];
        const auto of_map = [&](int k) -> decltype(auto) { return at(i, k); };
        if (map.aligned && count >= V) {
            blends(map) ? add_pixels<true, true>(map, g_map, count, acc, of_map)
                        : add_pixels<true, false>(map, g_map, count, acc, of_map);
        } else {
            blends(map) ? add_pixels<false, true>(map, g_map, count, acc, of_map)
                        : add_pixels<false, false>(map, g_map, count, acc, of_map);
        }
    }
}

}  // namespace pk::upsample_merge
