// Forward: one block owns output pixels of one image and a slice of channels, gathers them from every map behind it
// and writes each once. Small maps stay in L1 and L2, so what bounds it is reading the large ones and writing y.
//
// grid:   x images x pixel tiles, y channel slices of all maps (of one, in a sum)
// block:  NCHW: a thread owns `pixels_of` pixels side by side in `slab` channels. channels_last: `width` threads own
//         16 bytes of channels each, at `pixels_deep` pixels
// shared: none
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
    int width;     // channels_last: threads along channels, a power of two
    void* y;       // (n, c, h, w)
};

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
    const Slice s = slice_of(m, blockIdx.y, slab);
    Acc<T> acc[slab][V] = {};
    merge_planes<T>(m, s, n, at, acc);
    T* g_y = static_cast<T*>(p.y) + (static_cast<long long>(n) * m.c + s.out) * pixels + at;
#pragma unroll
    for (int k = 0; k < slab; ++k) {
        if (k >= s.channels) break;
        Vec<T, V> r;
#pragma unroll
        for (int v = 0; v < V; ++v) r[v] = narrow<T>(finished<T>(p, acc[k][v], s.out + k));
        store_vec(g_y + static_cast<long long>(k) * pixels, r, pixels - at, p.aligned, 1);
    }
}

template <class T>
__device__ __forceinline__ void write_pixels(const Forward& p) {
    constexpr int V = vec_size<T>;
    const Maps& m = p.maps;
    const int slots = blockDim.x / p.width, pixels = m.h * m.w, tiles = ceil_div(pixels, slots * pixels_deep);
    const int n = blockIdx.x / tiles, at = blockIdx.x % tiles * slots * pixels_deep + threadIdx.x / p.width;
    const Slice s = slice_of(m, blockIdx.y, p.width * V);
    const int lane = threadIdx.x % p.width * V;
    if (lane >= s.channels) return;
    Acc<T> acc[pixels_deep][V] = {};
    merge_pixels<T>(m, s, lane, n, at, slots, acc);
    const int channel = s.out + lane;
    T* g_y = static_cast<T*>(p.y) + (static_cast<long long>(n) * pixels + at) * m.c + channel;
#pragma unroll
    for (int k = 0; k < pixels_deep; ++k) {
        if (at + k * slots >= pixels) break;
        Vec<T, V> r;
#pragma unroll
        for (int v = 0; v < V; ++v)
            r[v] = narrow<T>(v < s.channels - lane ? finished<T>(p, acc[k][v], channel + v) : Acc<T>(0));
        store_vec(g_y + static_cast<long long>(k) * slots * m.c, r, s.channels - lane, p.aligned && channel % V == 0,
                  1);
    }
}

template <class T, bool ChannelsLast>
__global__ void __launch_bounds__(merge_threads, 4) upsample_merge_fwd_kernel(const __grid_constant__ Forward p) {
    if constexpr (ChannelsLast) {
        write_pixels<T>(p);
    } else {
        write_planes<T>(p);
    }
}

}  // namespace pk::upsample_merge
