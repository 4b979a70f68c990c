// A level as the kernels of pyramid_conv see it, and how a thread reads its channels.
#pragma once

#include "common/resample.h"
#include "common/scalar.cuh"
#include "common/vec.cuh"
#include "pyramid_conv/pyramid_conv.h"

namespace pk::pyramid_conv {

struct Level {
    void* data;  // (n, k * k * o, h, w)
    int64_t strides[4];
    ResizedAxis y, x;
    bool aligned;  // vectors of every tap's channels may be read, or written
};

/// Elements of accumulators in 16 bytes.
template <class T>
inline constexpr int quad = vec_size<Acc<T>>;

/// Channels of a pixel that one thread reads at once: 16 bytes where they lie side by side; else enough that positions
/// and weights are found once for several loads.
template <class T, bool ChannelsLast>
inline constexpr int lane_channels = ChannelsLast ? vec_size<T> : quad<T>;

/// V channels from g on, `step` apart; beyond the last of `count` it is read again, so that no branch keeps loads from
/// being under way together. Whole: by vectors.
template <bool Whole, int V, class T>
__device__ __forceinline__ Vec<T, V> channels_at(const T* g, int count, long long step) {
    if constexpr (Whole) {
        return *reinterpret_cast<const Vec<T, V>*>(g);
    } else {
        Vec<T, V> r;
#pragma unroll
        for (int c = 0; c < V; ++c, g += c < count ? step : 0) r[c] = *g;
        return r;
    }
}

}  // namespace pk::pyramid_conv
