// Gradients of the maps: every source pixel gathers from the outputs whose forward positions hold it. No atomics, one
// write each, a fixed order of additions. Bound by reading dy, once from memory and some times over through L1 and L2.
//
// grid:   x the blocks of all maps in one row, those whose pixels reach furthest first
// block:  NCHW: `team` threads share a source pixel of `slab` channels: one where few outputs reach it, the block
//         where a 1x1 map fills the output; lanes lie along columns of outputs, warps take rows. channels_last:
//         `width` threads own 16 bytes of channels each, and `team` rows of such threads share the rows of outputs
// shared: NCHW: a slab per warp. channels_last: 16 bytes of the dtype, as accumulators, per thread
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

/// A map taken as it is, NCHW: pixels at ... of `slab` channels from `start` on.
template <bool Whole, class T>
__device__ __forceinline__ void pass_planes(const Backward& p, const Gradient& map, int n, int start, int at) {
    constexpr int K = slab, V = pixels_of<T>;
    const int pixels = p.h * p.w, channels = map.c - start;
    const long long plane = (static_cast<long long>(n) * p.c + map.first + start) * pixels + at;
    T* g_dmap = static_cast<T*>(map.data) + n * map.strides[0] + start * map.strides[1] + at * map.strides[3];
    long long planes[K];
#pragma unroll
    for (int k = 0; k < K; ++k) planes[k] = plane + static_cast<long long>(smaller(k, channels - 1)) * pixels;
    Vec<T, V> dy[K];
    incoming<Whole>(static_cast<const T*>(p.dy), static_cast<const T*>(p.y), planes, pixels - at, dy);
#pragma unroll
    for (int k = 0; k < K; ++k) {
        if (k >= channels) break;
        Vec<T, V> r;
#pragma unroll
        for (int v = 0; v < V; ++v) r[v] = scaled<T>(p, widen(dy[k][v]), map.first + start + k);
        store_vec(g_dmap + k * map.strides[1], r, pixels - at, map.aligned, map.strides[3]);
    }
}

/// NCHW: unit u is one source pixel in one slab of channels.
template <class T>
__device__ __forceinline__ void gather_planes(const Backward& p, const Gradient& map, int n, int u, Acc<T>* s_part) {
    using A = Acc<T>;
    constexpr int K = slab;
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
            Vec<T, 1> dy[K];
            long long at[K];
#pragma unroll
            for (int k = 0; k < K; ++k)
                at[k] = plane + static_cast<long long>(smaller(k, map.c - start - 1)) * pixels + y * p.w + x;
            incoming<true>(static_cast<const T*>(p.dy), static_cast<const T*>(p.y), at, 1, dy);
#pragma unroll
            for (int k = 0; k < K; ++k) acc[k] += share * widen(dy[k][0]);
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

/// acc[v] += what output rows `first`, first + step ... bring source pixel (i, j), at `count` channels from `from` on.
template <bool Whole, class T, int V>
__device__ __forceinline__ void add_rows(const Backward& p, const Gradient& map, int n, int i, int j, int first,
                                         int step, int last, int from, int count, Acc<T> (&acc)[V]) {
    using A = Acc<T>;
    constexpr int K = Whole ? gradients_deep : 1;  // element by element they take registers
    const Span cols = map.x.reached<A>(j);
    for (int y = first; y <= last; y += step) {
        const A down = map.y.weight<A>(y, i);
        const long long row = (static_cast<long long>(n) * p.h + y) * p.w;
        for (int x = cols.first; x <= cols.last; x += K) {
            long long at[K];
            Vec<T, V> dy[K];
#pragma unroll
            for (int k = 0; k < K; ++k) at[k] = (row + smaller(x + k, cols.last)) * p.c + from;
            incoming<Whole>(static_cast<const T*>(p.dy), static_cast<const T*>(p.y), at, count, dy);
#pragma unroll
            for (int k = 0; k < K; ++k) {
                if (x + k > cols.last) break;
                const A share = down * map.x.weight<A>(x + k, j);
#pragma unroll
                for (int v = 0; v < V; ++v) acc[v] += share * widen(dy[k][v]);
            }
        }
    }
}

/// A map taken as it is, channels_last: pixels first, first + step ... of `count` channels from `lane` on.
template <bool Whole, class T>
__device__ __forceinline__ void pass_pixels(const Backward& p, const Gradient& map, int n, int lane, int first,
                                            int step) {
    constexpr int K = gradients_deep, B = Whole ? K : 1, V = vec_size<T>;
    const int from = map.first + lane, count = map.c - lane, pixels = p.h * p.w;
    T* g_dmap = static_cast<T*>(map.data) + n * map.strides[0] + lane * map.strides[1];
#pragma unroll
    for (int k = 0; k < K; k += B) {
        long long at[B];
        Vec<T, V> dy[B];
#pragma unroll
        for (int b = 0; b < B; ++b)
            at[b] = (static_cast<long long>(n) * pixels + smaller(first + (k + b) * step, pixels - 1)) * p.c + from;
        incoming<Whole>(static_cast<const T*>(p.dy), static_cast<const T*>(p.y), at, count, dy);
        Acc<T> scale[V];
#pragma unroll
        for (int v = 0; v < V; ++v) scale[v] = p.scale && v < count ? element<T>(p.scale, p.scale_is_t, from + v) : 1;
#pragma unroll
        for (int b = 0; b < B; ++b) {
            const int pixel = first + (k + b) * step;
            if (pixel >= pixels) return;
#pragma unroll
            for (int v = 0; v < V; ++v) dy[b][v] = narrow<T>(widen(dy[b][v]) * scale[v]);
            store_vec(g_dmap + pixel / p.w * map.strides[2] + pixel % p.w * map.strides[3], dy[b], count, map.aligned,
                      map.strides[1]);
        }
    }
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
    const int from = map.first + lane, count = map.c - lane;
    A acc[V] = {};
    if (live) {
        const Span rows = map.y.reached<A>(i);
        const int first = rows.first + t / row;
        if (p.aligned && map.first % V == 0 && count >= V) {
            add_rows<true, T>(p, map, n, i, j, first, map.team, rows.last, from, count, acc);
        } else {
            add_rows<false, T>(p, map, n, i, j, first, map.team, rows.last, from, count, acc);
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

// Four vectors of dy and of y under way leave two CTAs an SM in 16-bit types: a third would spill.
template <class T, bool ChannelsLast>
__global__ void __launch_bounds__(gather_threads, ChannelsLast && sizeof(T) == 2 ? 2 : 3)
    upsample_merge_bwd_dmaps_kernel(const __grid_constant__ Backward p) {
    int block = blockIdx.x, i = 0;
    for (; block >= p.maps[i].blocks; ++i) block -= p.maps[i].blocks;
    const Gradient& map = p.maps[i];
    const int n = block / map.blocks_per_image;
    block %= map.blocks_per_image;
    __shared__ Acc<T> s_part[ChannelsLast ? vec_size<T> * gather_threads : slab * gather_threads / 32];
    if constexpr (ChannelsLast) {
        if (map.y.how == Resample::taken) {
            const int slots = gather_threads / map.width, slices = ceil_div(map.c, map.width * vec_size<T>);
            const int lane = (block % slices * map.width + threadIdx.x % map.width) * vec_size<T>;
            const int first = block / slices * slots * gradients_deep + threadIdx.x / map.width;
            if (lane >= map.c || first >= p.h * p.w) return;
            if (p.aligned && map.first % vec_size<T> == 0 && map.c - lane >= vec_size<T>) {
                pass_pixels<true, T>(p, map, n, lane, first, slots);
            } else {
                pass_pixels<false, T>(p, map, n, lane, first, slots);
            }
        } else {
            gather_pixels<T>(p, map, n, block, s_part);
        }
    } else {
        const int u = (block * gather_threads + static_cast<int>(threadIdx.x)) / map.team;
        if (map.y.how != Resample::taken) {
            gather_planes<T>(p, map, n, u, s_part);
        } else {
            const int strips = ceil_div(p.h * p.w, pixels_of<T>), start = u / strips * slab;
            const int at = u % strips * pixels_of<T>;
            if (start >= map.c) return;
            if (p.aligned && at + pixels_of<T> <= p.h * p.w) {
                pass_planes<true, T>(p, map, n, start, at);
            } else {
                pass_planes<false, T>(p, map, n, start, at);
            }
        }
    }
}

}  // namespace pk::upsample_merge
