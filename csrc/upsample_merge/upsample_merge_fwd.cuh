// Forward: one block owns output pixels of one image and a slice of channels, gathers them from every map behind it
// and writes each once. Small maps stay in L1 and L2, so what bounds it is reading the large ones and writing y.
//
// grid:   x images x pixel tiles, y channel slices of all maps (of one, in a sum)
// block:  NCHW: a thread owns `pixels_of` pixels side by side in `wide_slab` channels. channels_last: threads along the
//         slice own 16 bytes of channels each; those beside them take other pixels of the block's tile
// shared: channels_last: where every pixel of the tile finds its sources in every map of the slice
#pragma once

#include "upsample_merge/merged.cuh"

namespace pk::upsample_merge {

struct Forward {
    Maps maps;
    const void* scale;  // (c,) or null
    const void* shift;  // (c,) or null
    bool scale_is_t, shift_is_t;
    bool relu;
    bool aligned;  // vectors of y's first channel are
    void* y;       // (n, c, h, w)
};

/// Pixels of a channels_last block.
inline constexpr int tile_pixels = 32;

/// Whether anything follows the merge; the same for the whole launch.
__device__ __forceinline__ bool finishes(const Forward& p) {
    return p.scale != nullptr || p.shift != nullptr || p.relu;
}

template <class T>
__device__ __forceinline__ Acc<T> finished(const Forward& p, Acc<T> value, int channel) {
    if (p.scale != nullptr) value *= element<T>(p.scale, p.scale_is_t, channel);
    if (p.shift != nullptr) value += element<T>(p.shift, p.shift_is_t, channel);
    return p.relu && value < Acc<T>(0) ? Acc<T>(0) : value;  // NaN stays
}

template <class T>
__device__ __forceinline__ void write_planes(const Forward& p) {
    constexpr int V = pixels_of<T>;
    const Maps& m = p.maps;
    const int pixels = m.h * m.w, tiles = ceil_div(pixels, V * static_cast<int>(blockDim.x));
    const int n = blockIdx.x / tiles, at = (blockIdx.x % tiles * blockDim.x + threadIdx.x) * V;
    if (at >= pixels) return;
    const Slice s = slice_of(m, blockIdx.y);
    Acc<T> acc[wide_slab<T>][V] = {};
    merge_planes<T>(m, s, n, at, acc);
    T* g_y = static_cast<T*>(p.y) + (static_cast<long long>(n) * m.c + s.out) * pixels + at;
#pragma unroll
    for (int k = 0; k < wide_slab<T>; ++k) {
        if (k >= s.channels) break;
        if (finishes(p))
#pragma unroll
            for (int v = 0; v < V; ++v) acc[k][v] = finished<T>(p, acc[k][v], s.out + k);
        Vec<T, V> r;
#pragma unroll
        for (int v = 0; v < V; ++v) r[v] = narrow<T>(acc[k][v]);
        store_vec(g_y + static_cast<long long>(k) * pixels, r, pixels - at, p.aligned, 1);
    }
}

template <class T>
__device__ __forceinline__ void write_pixels(const Forward& p) {
    constexpr int V = vec_size<T>;
    const Maps& m = p.maps;
    const int pixels = m.h * m.w, tiles = ceil_div(pixels, tile_pixels);
    const int n = blockIdx.x / tiles, first = blockIdx.x % tiles * tile_pixels;
    const Slice s = slice_of(m, blockIdx.y);
    const int width = m.maps[s.from].slice / V, slots = blockDim.x / width;

    auto* s_corners = shared_memory<Corners<Acc<T>>>();
    for (int e = threadIdx.x; e < (s.to - s.from) * tile_pixels; e += blockDim.x)
        s_corners[e] =
            corners_at<Acc<T>>(m, m.maps[s.from + e / tile_pixels], smaller(first + e % tile_pixels, pixels - 1));
    __syncthreads();

    const int lane = threadIdx.x % width * V, channel = s.out + lane, count = s.channels - lane;
    if (count <= 0) return;
    const bool aligned = p.aligned && channel % V == 0;
    T* g_y = static_cast<T*>(p.y) + (static_cast<long long>(n) * pixels + first) * m.c + channel;
    const int end = smaller(tile_pixels, pixels - first);
    for (int at = threadIdx.x / width; at < end; at += slots * pixels_deep) {
        Acc<T> acc[pixels_deep][V] = {};
        merge_pixels<T>(m, s, lane, n, acc, [&](int i, int k) -> const Corners<Acc<T>>& {
            return s_corners[(i - s.from) * tile_pixels + smaller(at + k * slots, tile_pixels - 1)];
        });
#pragma unroll
        for (int k = 0; k < pixels_deep; ++k) {
            if (at + k * slots >= end) break;
            if (finishes(p))
#pragma unroll
                for (int v = 0; v < V; ++v)
                    acc[k][v] = finished<T>(p, acc[k][v], smaller(channel + v, s.out + s.channels - 1));
            Vec<T> r;
#pragma unroll
            for (int v = 0; v < V; ++v) r[v] = narrow<T>(acc[k][v]);
            store_vec(g_y + static_cast<long long>(at + k * slots) * m.c, r, count, aligned, 1);
        }
    }
}

template <class T, bool ChannelsLast>
__global__ void __launch_bounds__(merge_threads, ChannelsLast ? 4 : 3)
    upsample_merge_fwd_kernel(const __grid_constant__ Forward p) {
    if constexpr (ChannelsLast) {
        write_pixels<T>(p);
    } else {
        write_planes<T>(p);
    }
}

}  // namespace pk::upsample_merge
