// Gradients of the maps: every source pixel gathers from the outputs whose forward positions hold it. No atomics, one
// write each, a fixed order of additions. Bound by reading dy, once from memory and some times over through L1 and L2.
//
// grid:   x the blocks of all maps in one row, those whose pixels reach furthest first
// block:  NCHW: `team` lanes share a source pixel of `slab_of` channels: one lane where few outputs reach it, a warp
// where
//         a 1x1 map fills the whole output. channels_last: `width` threads own 16 bytes of channels each of a pixel,
//         and `team` such rows of threads share the rows of outputs that it reaches
// shared: channels_last: 16 bytes of the dtype, as accumulators, per thread
#pragma once

#include "common/block_sum.cuh"
#include "upsample_merge/incoming.cuh"
#include "upsample_merge/merged.cuh"

namespace pk::upsample_merge {

inline constexpr int gather_threads = 256;

struct Gradient {
    void* data;    // (n, c, h, w)
    int c, first;  // channels, and the first one's place in dy
    int64_t strides[4];
    ResizedAxis y, x;
    bool aligned;  // vectors may be written: of pixels (NCHW, taken) or of channels
    int team, width;
    int blocks, blocks_per_image;
};

struct Backward {
    const void* dy;     // (n, c, h, w)
    const void* y;      // (n, c, h, w) or null
    const void* scale;  // (c,) or null
    bool scale_is_t;
    bool aligned;  // vectors of dy's and y's first channel are
    int c, h, w;   // of dy
    int count;
    Gradient maps[upsample_merge_maps];
};

template <class T>
__device__ __forceinline__ T scaled(const Backward& p, Acc<T> value, int channel) {
    return narrow<T>(p.scale != nullptr ? value * element<T>(p.scale, p.scale_is_t, channel) : value);
}

/// Add up the values of `lanes` threads side by side, or of the whole block where they fill it; the first gets the
/// sums.
template <int K, class A>
__device__ __forceinline__ void sum_team(A (&r)[K], A* s_part, int lanes, int warps) {
#pragma unroll
    for (int k = 0; k < K; ++k)
        for (int away = lanes / 2; away > 0; away /= 2) r[k] += __shfl_xor_sync(0xffffffffu, r[k], away);
    if (warps == 1) return;
    const int t = threadIdx.x;
    for (int k = 0; k < K; ++k)
        if (t % 32 == 0) s_part[t / 32 * K + k] = r[k];
    __syncthreads();
    for (int warp = 1; t == 0 && warp < warps; ++warp)
        for (int k = 0; k < K; ++k) r[k] += s_part[warp * K + k];
}

/// A map taken as it is, NCHW: unit u is `pixels_of` pixels side by side in one slab of channels.
template <class T>
__device__ __forceinline__ void pass_planes(const Backward& p, const Gradient& map, int n, int u) {
    constexpr int V = pixels_of<T>;
    const int pixels = p.h * p.w, strips = ceil_div(pixels, V), start = u / strips * slab_of<T>, at = u % strips * V;
    const long long plane = (static_cast<long long>(n) * p.c + map.first + start) * pixels + at;
    T* g_dmap = static_cast<T*>(map.data) + n * map.strides[0] + start * map.strides[1] + at * map.strides[3];
#pragma unroll
    for (int k = 0; k < slab_of<T>; ++k) {
        if (start + k >= map.c) break;
        Acc<T> dy[V];
        Vec<T, V> r;
        incoming<T>(static_cast<const T*>(p.dy), static_cast<const T*>(p.y), plane + static_cast<long long>(k) * pixels,
                    pixels - at, p.aligned, dy);
#pragma unroll
        for (int v = 0; v < V; ++v) r[v] = scaled<T>(p, dy[v], map.first + start + k);
        store_vec(g_dmap + k * map.strides[1], r, pixels - at, map.aligned, map.strides[3]);
    }
}

/// NCHW: unit u is one source pixel in one slab of channels.
template <class T>
__device__ __forceinline__ void gather_planes(const Backward& p, const Gradient& map, int n, int u, Acc<T>* s_part) {
    using A = Acc<T>;
    constexpr int K = slab_of<T>;
    const int q = u % (map.y.size * map.x.size), start = u / (map.y.size * map.x.size) * K;
    const int i = q / map.x.size, j = q % map.x.size, pixels = p.h * p.w;
    const bool live = start < map.c;  // a thread beyond the map still takes part in its team's sums
    const Span rows = live ? map.y.reached<A>(i) : Span{0, -1}, cols = live ? map.x.reached<A>(j) : Span{0, -1};
    const long long plane = (static_cast<long long>(n) * p.c + map.first + start) * pixels;
    const int lanes = smaller(map.team, 32), warps = map.team / lanes,
              member = static_cast<int>(threadIdx.x) % map.team;
    A acc[K] = {};
    for (int x = cols.first + member % lanes; x <= cols.last; x += lanes) {
        const A across = map.x.weight<A>(x, j);
        for (int y = rows.first + member / lanes; y <= rows.last; y += warps) {
            const A share = map.y.weight<A>(y, i) * across;
#pragma unroll
            for (int k = 0; k < K; ++k) {
                if (start + k >= map.c) break;
                const long long at = plane + static_cast<long long>(k) * pixels + y * p.w + x;
                acc[k] += share * incoming(static_cast<const T*>(p.dy), static_cast<const T*>(p.y), at);
            }
        }
    }
    sum_team<K>(acc, s_part, lanes, warps);
    if (!live || member > 0) return;
    T* g_dmap = static_cast<T*>(map.data) + n * map.strides[0] + start * map.strides[1] + i * map.strides[2];
#pragma unroll
    for (int k = 0; k < K; ++k)
        if (start + k < map.c)
            g_dmap[k * map.strides[1] + j * map.strides[3]] = scaled<T>(p, acc[k], map.first + start + k);
}

/// channels_last: `block` of the image owns some source pixels and `width` vectors of channels.
template <class T>
__device__ __forceinline__ void gather_pixels(const Backward& p, const Gradient& map, int n, int block,
                                              Acc<T>* s_part) {
    using A = Acc<T>;
    constexpr int V = vec_size<T>;
    const int t = threadIdx.x, row = gather_threads / map.team, slices = ceil_div(map.c, map.width * V);
    const int lane = (block % slices * map.width + t % map.width) * V;
    const int q = block / slices * (row / map.width) + t % row / map.width;
    const int i = q / map.x.size, j = q % map.x.size;
    const bool live = i < map.y.size && lane < map.c;
    const Span rows = live ? map.y.reached<A>(i) : Span{0, -1}, cols = live ? map.x.reached<A>(j) : Span{0, -1};
    const bool aligned = p.aligned && map.first % V == 0;
    A acc[V] = {};
    for (int y = rows.first + t / row; y <= rows.last; y += map.team) {
        const A down = map.y.weight<A>(y, i);
#pragma unroll 4
        for (int x = cols.first; x <= cols.last; ++x) {
            const A share = down * map.x.weight<A>(x, j);
            const long long pixel = (static_cast<long long>(n) * p.h + y) * p.w + x;
            A dy[V];
            incoming<T>(static_cast<const T*>(p.dy), static_cast<const T*>(p.y), pixel * p.c + map.first + lane,
                        map.c - lane, aligned, dy);
#pragma unroll
            for (int v = 0; v < V; ++v) acc[v] += share * dy[v];
        }
    }
    sum_strided(acc, s_part, row);
    if (!live || t >= row) return;
    T* g_dmap = static_cast<T*>(map.data) + n * map.strides[0] + lane * map.strides[1] + i * map.strides[2];
    Vec<T, V> r;
#pragma unroll
    for (int v = 0; v < V; ++v) r[v] = lane + v < map.c ? scaled<T>(p, acc[v], map.first + lane + v) : narrow<T>(A(0));
    store_vec(g_dmap + j * map.strides[3], r, map.c - lane, map.aligned, map.strides[1]);
}

template <class T, bool ChannelsLast>
__global__ void __launch_bounds__(gather_threads, 4)
    upsample_merge_bwd_dmaps_kernel(const __grid_constant__ Backward p) {
    int block = blockIdx.x, i = 0;
    for (; block >= p.maps[i].blocks; ++i) block -= p.maps[i].blocks;
    const Gradient& map = p.maps[i];
    const int n = block / map.blocks_per_image;
    block %= map.blocks_per_image;
    __shared__ Acc<T> s_part[ChannelsLast ? vec_size<T> * gather_threads : slab_of<T> * gather_threads / 32];
    if constexpr (ChannelsLast) {
        gather_pixels<T>(p, map, n, block, s_part);
    } else {
        const int u = (block * gather_threads + static_cast<int>(threadIdx.x)) / map.team;
        if (map.y.how != Resample::taken) {
            gather_planes<T>(p, map, n, u, s_part);
        } else if (u < ceil_div(map.c, slab_of<T>) * ceil_div(p.h * p.w, pixels_of<T>)) {
            pass_planes<T>(p, map, n, u);
        }
    }
}

}  // namespace pk::upsample_merge
