// 64 pixels x 64 channels of a map, which a CTA of 256 threads reads or writes in vectors of channels. Where the map
// has its pixels inside, or no vector fits, it passes through shared memory, so that either layout is coalesced.
#pragma once

#include "common/norm.cuh"
#include "common/vec.cuh"
#include "dilated_branches/schedule.h"

namespace pk {

template <class T>
struct Slab {
    static constexpr int PIXELS = 64, CHANNELS = 64, THREADS = 256, V = vec_size<T>;
    static constexpr int LANES = CHANNELS / V, ROWS = THREADS / LANES,
                         EACH = PIXELS / ROWS;                         // of a thread: EACH vectors
    static constexpr int PITCH = CHANNELS + V, COPY = PIXELS * PITCH;  // elements of a shared copy

    int pixels, channels;  // that exist

    /// Where the map's pixels from p0 on are, by 64 threads.
    static __device__ __forceinline__ void locate(int thread, long long p0, Extent map, long long n, long long h,
                                                  long long w, long long* s_at) {
        if (thread < 0 || thread >= PIXELS) return;
        const long long i = p0 + thread, row = i / map.w;
        s_at[thread] = row / map.h * n + row % map.h * h + i % map.w * w;
    }

    static __device__ __forceinline__ int channel() { return static_cast<int>(threadIdx.x) % LANES * V; }
    static __device__ __forceinline__ int pixel(int i) { return static_cast<int>(threadIdx.x) / LANES + i * ROWS; }

    /// Whether threads take the slab of a map at `g` in vectors; the same for the whole CTA.
    __device__ __forceinline__ bool in_vectors(const void* g, long long n, long long c, long long h,
                                               long long w) const {
        constexpr int bytes = sizeof(T);
        return c == 1 && channels % V == 0 && is_aligned(g, 16, n * bytes, h * bytes, w * bytes);
    }

    /// body(pixel, channel) of a whole slab, neighbouring threads along whichever is contiguous.
    template <class Body>
    static __device__ __forceinline__ void each(bool channels_inside, Body&& body) {
#pragma unroll 4
        for (int e = threadIdx.x; e < PIXELS * CHANNELS; e += THREADS)
            channels_inside ? body(e / CHANNELS, e % CHANNELS) : body(e % PIXELS, e / PIXELS);
    }

    /// Copy a map's slab, whose last pixel and channel stand for those past the end.
    __device__ __forceinline__ void copy(const T* g, const long long* s_at, long long c, bool channels_inside,
                                         T* s_copy) const {
        each(channels_inside, [&](int pixel, int channel) {
            s_copy[pixel * PITCH + channel] = g[s_at[smaller(pixel, pixels - 1)] + smaller(channel, channels - 1) * c];
        });
    }

    /// This thread's vectors: from global memory, all under way together, a pixel past the end being the last one
    /// again; or from the shared copy.
    __device__ __forceinline__ void take(const T* g, const long long* s_at, const T* s_copy, bool vectors,
                                         Vec<T> (&r)[EACH]) const {
        if (vectors) {
#pragma unroll
            for (int i = 0; i < EACH; ++i)
                r[i] = *reinterpret_cast<const Vec<T>*>(g + s_at[smaller(pixel(i), pixels - 1)] + channel());
        } else {
#pragma unroll
            for (int i = 0; i < EACH; ++i)
                r[i] = *reinterpret_cast<const Vec<T>*>(s_copy + pixel(i) * PITCH + channel());
        }
    }
};

/// Per channel of a slab, in shared memory: what its norm subtracts and multiplies.
template <class T>
struct SlabNorm {
    static constexpr int CHANNELS = Slab<T>::CHANNELS;
    alignas(16) float mean[CHANNELS], deviation[CHANNELS], gain[CHANNELS], bias[CHANNELS];

    /// By 64 threads, of the branch's channels from o0 on.
    __device__ __forceinline__ void fill(int thread, const Norm& norm, int o0, int channels) {
        if (thread < 0 || thread >= channels) return;
        const int o = o0 + thread;
        mean[thread] = vector_or<T>(norm.mean, o, 0), deviation[thread] = inverse_deviation<T>(norm, o);
        gain[thread] = vector_or<T>(norm.gain, o, 1), bias[thread] = vector_or<T>(norm.bias, o, 0);
    }
};

}  // namespace pk
