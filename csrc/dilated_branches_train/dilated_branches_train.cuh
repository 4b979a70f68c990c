// Batch statistics from those of tiles, and the norm that uses them. Both bound by bandwidth.
#pragma once

#include "dilated_branches/slab.cuh"
#include "dilated_branches_train/dilated_branches_train.h"

namespace pk {

/// Mean and biased variance by Chan's formula: squared deviations around the common mean, so that channels whose mean
/// is large keep their variance. Owns: a block owns 32 channels; eight threads share one, added in order. Grid:
/// channels.
template <int SHARES = 8>
__global__ void __launch_bounds__(32 * SHARES)
    dilated_branches_train_stats_kernel(const __grid_constant__ DilatedBranchesStatsParams p) {
    __shared__ float s_parts[SHARES][32];
    const int lane = threadIdx.x % 32, share = threadIdx.x / 32, c = blockIdx.x * 32 + lane;
    /// The sum over tiles of value(count, mean, squares), the same for all eight threads.
    const auto total = [&](auto&& value) {
        float sum = 0;
        if (c < p.channels) {
            for (int tile = share; tile < p.tiles; tile += SHARES) {
                const float* g = p.part + 3LL * tile * p.channels + c;
                sum += value(g[0], g[p.channels], g[2LL * p.channels]);
            }
        }
        s_parts[share][lane] = sum;
        __syncthreads();
        sum = 0;
        for (int i = 0; i < SHARES; ++i) sum += s_parts[i][lane];
        __syncthreads();
        return sum;
    };
    const float count = larger(1.f, total([](float n, float, float) { return n; }));
    const float mean = total([](float n, float m, float) { return n * m; }) / count;
    const float squares = total([&](float n, float m, float q) { return q + n * (m - mean) * (m - mean); });
    if (share != 0 || c >= p.channels) return;
    p.mean[c] = mean;
    p.var[c] = squares / count;
}

/// y from z. Owns: a CTA owns 64 pixels and 64 channels of one branch; a thread takes V channels of every 32nd (fp32:
/// 16th) pixel, and y passes through shared memory where its pixels are inside.
template <class T>
__global__ void __launch_bounds__(Slab<T>::THREADS)
    dilated_branches_train_normalise_kernel(const __grid_constant__ DilatedBranchesNormaliseParams p) {
    using S = Slab<T>;
    constexpr int V = S::V;
    __shared__ long long s_z_at[S::PIXELS], s_y_at[S::PIXELS];
    __shared__ SlabNorm<T> s_norm;
    T* s_copy = shared_memory<T>();
    const Extent map = p.branches.map;
    const int b = branch_of(p.first_block, p.branches.count, blockIdx.y), thread = threadIdx.x;
    const Branch& branch = p.branches.branch[b];
    const int o0 = (blockIdx.y - p.first_block[b]) * S::CHANNELS, first = branch.first + o0;
    const long long p0 = 1LL * blockIdx.x * S::PIXELS, all = 1LL * map.n * map.h * map.w, w = p.branches.channels;
    const S slab{static_cast<int>(smaller<long long>(S::PIXELS, all - p0)), smaller(S::CHANNELS, branch.shape.o - o0)};

    S::locate(thread, p0, map, map.h * map.w * w, map.w * w, w, s_z_at);
    S::locate(thread - 64, p0, map, p.y_n, p.y_h, p.y_w, s_y_at);
    s_norm.fill(thread - 128, branch.norm, o0, slab.channels);
    __syncthreads();
    const T* g_z = static_cast<const T*>(p.z) + first;
    T* g_y = static_cast<T*>(p.y) + first * p.y_c;
    const bool z_vectors = slab.in_vectors(g_z, w, 1, w, w);
    const bool y_vectors = slab.in_vectors(g_y, p.y_n, p.y_c, p.y_h, p.y_w);
    if (!z_vectors) {
        slab.copy(g_z, s_z_at, 1, true, s_copy);
        __syncthreads();
    }

    const int c0 = S::channel();
    if (c0 < slab.channels) {
        Vec<T> r[S::EACH];
        slab.take(g_z, s_z_at, s_copy, z_vectors, r);
#pragma unroll
        for (int i = 0; i < S::EACH; ++i) {
#pragma unroll
            for (int k = 0; k < V; ++k) {
                const int c = c0 + k;
                const float v =
                    (widen(r[i][k]) - s_norm.mean[c]) * s_norm.deviation[c] * s_norm.gain[c] + s_norm.bias[c];
                r[i][k] = narrow<T>(p.relu && v < 0 ? 0 : v);
            }
            if (S::pixel(i) >= slab.pixels) continue;
            T* s_r = s_copy + S::pixel(i) * S::PITCH + c0;  // this thread's own place in it
            *reinterpret_cast<Vec<T>*>(y_vectors ? g_y + s_y_at[S::pixel(i)] + c0 : s_r) = r[i];
        }
    }
    if (y_vectors) return;
    __syncthreads();
    S::each(p.y_c <= p.y_w, [&](int pixel, int channel) {
        if (pixel < slab.pixels && channel < slab.channels)
            g_y[s_y_at[pixel] + channel * p.y_c] = s_copy[pixel * S::PITCH + channel];
    });
}

}  // namespace pk
