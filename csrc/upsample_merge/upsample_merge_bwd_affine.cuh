// Gradients of scale and shift: dscale sums dy times the value before the affine, which is computed again from the maps
// (scale may be 0, so y does not hold it), dshift sums dy. Two launches, every sum in fixed order. Bound by reading dy,
// and for dscale the maps, once.
//
// upsample_merge_bwd_affine_kernel
// grid:   x shares of the pixels of all images, y channel slices of all maps (of one, in a sum)
// block:  as in the forward; pixel tile t belongs to share t modulo their number
// shared: the threads' sums of one gradient
//
// upsample_merge_sums_kernel
// grid:   x 32 channels each, y gradients
// block:  8 rows of 32 threads, each over an eighth of the shares
// shared: a sum per thread
#pragma once

#include "common/block_sum.cuh"
#include "upsample_merge/incoming.cuh"
#include "upsample_merge/merged.cuh"

namespace pk::upsample_merge {

inline constexpr int sums_threads = 256, sums_channels = 32;

struct Affine {
    Maps maps;
    const void* dy;  // (n, c, h, w)
    const void* y;   // (n, c, h, w) or null
    bool recompute;  // of dscale too, not dshift alone
    bool aligned;    // vectors of dy's and y's first channel are
    void* part;      // (1 or 2, parts, c) of accumulators
};

/// Where this block's sum number `row` of output channel `channel` goes.
template <class A>
__device__ __forceinline__ A* share_of(const Affine& p, int row, int channel) {
    return static_cast<A*>(p.part) + (static_cast<long long>(row) * gridDim.x + blockIdx.x) * p.maps.c + channel;
}

template <class T>
__device__ __forceinline__ void sum_planes(const Affine& p, Acc<T>* s_part) {
    using A = Acc<T>;
    constexpr int K = slab, V = pixels_of<T>;
    const Maps& m = p.maps;
    const Slice s = slice_of(m, blockIdx.y);
    const int pixels = m.h * m.w, tiles = ceil_div(pixels, V * static_cast<int>(blockDim.x));
    A shift[K] = {}, scale[K] = {};
    for (int tile = blockIdx.x; tile < m.n * tiles; tile += gridDim.x) {
        const int n = tile / tiles, at = (tile % tiles * blockDim.x + threadIdx.x) * V;
        if (at >= pixels) continue;
        A acc[K][V] = {};
        if (p.recompute) merge_planes<T>(m, s, n, at, acc);
        const long long plane = (static_cast<long long>(n) * m.c + s.out) * pixels + at;
        long long planes[K];
#pragma unroll
        for (int k = 0; k < K; ++k) planes[k] = plane + static_cast<long long>(smaller(k, s.channels - 1)) * pixels;
        Vec<T, V> dy[K];
        if (p.aligned && at + V <= pixels) {
            incoming<true>(static_cast<const T*>(p.dy), static_cast<const T*>(p.y), planes, V, dy);
        } else {
            incoming<false>(static_cast<const T*>(p.dy), static_cast<const T*>(p.y), planes, pixels - at, dy);
        }
#pragma unroll
        for (int k = 0; k < K; ++k)
#pragma unroll
            for (int v = 0; v < V; ++v) {
                if (at + v >= pixels) break;
                const A d = widen(dy[k][v]);
                shift[k] += d, scale[k] += d * acc[k][v];
            }
    }
    sum_strided(shift, s_part, 1);
    if (p.recompute) sum_strided(scale, s_part, 1);
    if (threadIdx.x > 0) return;
#pragma unroll
    for (int k = 0; k < K; ++k) {
        if (k >= s.channels) break;
        *share_of<A>(p, 0, s.out + k) = shift[k];
        if (p.recompute) *share_of<A>(p, 1, s.out + k) = scale[k];
    }
}

template <class T>
__device__ __forceinline__ void sum_pixels(const Affine& p, Acc<T>* s_part) {
    using A = Acc<T>;
    constexpr int V = vec_size<T>;
    const Maps& m = p.maps;
    const Slice s = slice_of(m, blockIdx.y);
    const int width = m.maps[s.from].slice / V;
    const int t = threadIdx.x, slots = blockDim.x / width, pixels = m.h * m.w, tiles = ceil_div(pixels, slots);
    const int lane = t % width * V, channel = s.out + lane, count = s.channels - lane;
    A shift[V] = {}, scale[V] = {};
    for (int tile = blockIdx.x; count > 0 && tile < m.n * tiles; tile += gridDim.x) {
        const int n = tile / tiles, at = tile % tiles * slots + t / width;
        if (at >= pixels) continue;
        A acc[1][V] = {};
        Vec<T, V> dy[1];
        if (p.recompute)
            merge_pixels<T>(m, s, lane, n, acc, [&](int i, int) { return corners_at<A>(m, m.maps[i], at); });
        const long long places[] = {(static_cast<long long>(n) * pixels + at) * m.c + channel};
        if (p.aligned && channel % V == 0 && count >= V) {
            incoming<true>(static_cast<const T*>(p.dy), static_cast<const T*>(p.y), places, V, dy);
        } else {
            incoming<false>(static_cast<const T*>(p.dy), static_cast<const T*>(p.y), places, count, dy);
        }
#pragma unroll
        for (int v = 0; v < V; ++v) shift[v] += widen(dy[0][v]), scale[v] += widen(dy[0][v]) * acc[0][v];
    }
    sum_strided(shift, s_part, width);
    if (p.recompute) sum_strided(scale, s_part, width);
    if (t >= width) return;
#pragma unroll
    for (int v = 0; v < V; ++v) {
        if (v >= count) break;
        *share_of<A>(p, 0, channel + v) = shift[v];
        if (p.recompute) *share_of<A>(p, 1, channel + v) = scale[v];
    }
}

template <class T, bool ChannelsLast>
__global__ void __launch_bounds__(merge_threads, 4) upsample_merge_bwd_affine_kernel(const __grid_constant__ Affine p) {
    __shared__ Acc<T> s_part[(ChannelsLast ? vec_size<T> : slab) * merge_threads];
    if constexpr (ChannelsLast) {
        sum_pixels<T>(p, s_part);
    } else {
        sum_planes<T>(p, s_part);
    }
}

/// part (rows, parts, c) -> sums (rows, c).
template <class A>
__global__ void __launch_bounds__(sums_threads)
    upsample_merge_sums_kernel(const A* g_part, A* g_sums, int parts, int c) {
    __shared__ A s_part[sums_threads];
    const int t = threadIdx.x, channel = blockIdx.x * sums_channels + t % sums_channels;
    const A* g_row = g_part + static_cast<long long>(blockIdx.y) * parts * c;
    A acc[1] = {};
    for (int i = t / sums_channels; channel < c && i < parts; i += sums_threads / sums_channels)
        acc[0] += g_row[static_cast<long long>(i) * c + channel];
    sum_strided(acc, s_part, sums_channels);
    if (t < sums_channels && channel < c) g_sums[static_cast<long long>(blockIdx.y) * c + channel] = acc[0];
}

}  // namespace pk::upsample_merge
