// How the launches over a whole map share it: every thread walks over vectors of 16 bytes, several under way at once.
//
// NCHW: a warp owns a share of one plane's pixels. channels_last: `width` threads of a block lie along channels, the
// others along the pixels of a share of one image.
#pragma once

#include "common/scalar.cuh"
#include "common/vec.cuh"

namespace pk::channel_gate {

inline constexpr int strip_threads = 256, strip_warps = strip_threads / 32;
/// Vectors of one map that a thread has under way.
inline constexpr int vectors_deep = 4;

/// A map (n, c, h, w), or one to write.
struct View {
    void* at;
    int64_t n, c, h, w;  // strides
    bool flat;           // one stride from pixel to pixel
    bool aligned;        // vectors along the contiguous dimension may be read
};

/// A map's sizes, and how its pixels are shared.
struct Shares {
    int n, c, pixels, columns;
    int parts, length;  // shares of an image's pixels, and their size
    int width;          // channels_last: threads along channels, a power of two
};

/// One thread's vectors: at the pixels first, first + step ... before last.
struct Strip {
    int n, part, c;
    int channels;  // channels_last: from c to the map's end
    int first, last, step;
};

template <class T, bool ChannelsLast>
__device__ __forceinline__ Strip strip_of(const Shares& m) {
    constexpr int V = vec_size<T>;
    const int t = threadIdx.x;
    Strip s;
    if constexpr (ChannelsLast) {
        s.n = blockIdx.x / m.parts, s.part = blockIdx.x % m.parts;
        s.c = (blockIdx.y * m.width + t % m.width) * V, s.channels = m.c - s.c;
        s.first = s.part * m.length + t / m.width, s.step = strip_threads / m.width;
    } else {
        const long long unit = static_cast<long long>(blockIdx.x) * strip_warps + t / 32, plane = unit / m.parts;
        s.part = static_cast<int>(unit % m.parts), s.n = static_cast<int>(plane / m.c);
        s.c = static_cast<int>(plane % m.c), s.channels = s.n < m.n;
        s.first = s.part * m.length + t % 32 * V, s.step = 32 * V;
    }
    s.last = s.channels > 0 ? smaller(m.pixels, (s.part + 1) * m.length) : 0;
    return s;
}

/// x times its gate, and x again for a residual: not times a gate of one more, for infinity times zero is NaN.
template <class A>
__device__ __forceinline__ A weighed(A x, A gate, bool residual) {
    const A product = x * gate;
    return residual ? product + x : product;
}

/// How many elements of the vector at pixel p exist.
template <bool ChannelsLast>
__device__ __forceinline__ int count_at(const Strip& s, int p) {
    return !ChannelsLast ? s.last - p : p < s.last ? s.channels : 0;
}

template <class T>
__device__ __forceinline__ T* place(const View& view, const Strip& s, const Shares& m, int p) {
    const int64_t pixel = view.flat ? p * view.w : p / m.columns * view.h + p % m.columns * view.w;
    return static_cast<T*>(view.at) + s.n * view.n + s.c * view.c + pixel;
}

/// The vectors at p, p + step ...; elements that do not exist are zero, vectors beyond the last one anything.
template <bool ChannelsLast, class T>
__device__ __forceinline__ void load_strip(const View& view, const Strip& s, const Shares& m, int p,
                                           Vec<T> (&r)[vectors_deep]) {
    constexpr int V = vec_size<T>;
    const T zero = narrow<T>(Acc<T>(0));
    const auto pixel = [&](int k) { return p + k * s.step < s.last ? p + k * s.step : p; };
    if (ChannelsLast || view.flat) {
        const bool whole = view.aligned && (ChannelsLast ? s.channels >= V : m.pixels % V == 0);
        load_vecs(
            r, whole, ChannelsLast ? view.c : view.w, zero, [&](int k) { return place<T>(view, s, m, pixel(k)); },
            [&](int k) { return count_at<ChannelsLast>(s, pixel(k)); });
    } else {
#pragma unroll
        for (int k = 0; k < vectors_deep; ++k)
#pragma unroll
            for (int v = 0; v < V; ++v) r[k][v] = pixel(k) + v < s.last ? *place<T>(view, s, m, pixel(k) + v) : zero;
    }
}

/// Write r, rounded, to a dense map's vectors at p, p + step ...
template <bool ChannelsLast, class T>
__device__ __forceinline__ void store_strip(const View& view, const Strip& s, const Shares& m, int p,
                                            const Acc<T> (&r)[vectors_deep][vec_size<T>]) {
#pragma unroll
    for (int k = 0; k < vectors_deep; ++k) {
        const int at = p + k * s.step;
        Vec<T> rounded;
#pragma unroll
        for (int v = 0; v < vec_size<T>; ++v) rounded[v] = narrow<T>(r[k][v]);
        store_vec(place<T>(view, s, m, at), rounded, count_at<ChannelsLast>(s, at), view.aligned, 1);
    }
}

/// g (n, c) at the channels of the thread's vectors.
template <bool ChannelsLast, class A, int V>
__device__ __forceinline__ void load_channels(const A* g, const Strip& s, const Shares& m, A (&r)[V]) {
    const A* g_own = g + static_cast<long long>(s.n) * m.c + s.c;
#pragma unroll
    for (int v = 0; v < V; ++v) r[v] = v < s.channels || !ChannelsLast ? g_own[ChannelsLast ? v : 0] : A(0);
}

}  // namespace pk::channel_gate
