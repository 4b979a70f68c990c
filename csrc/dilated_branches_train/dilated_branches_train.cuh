// Batch statistics from those of tiles, and the norm that uses them. Both bound by bandwidth.
#pragma once

#include "common/norm.cuh"
#include "common/vec.cuh"
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

/// y from z. Owns: a block owns 64 pixels and 64 channels of one branch; neighbouring threads take neighbours along
/// y's contiguous side, and z passes through shared memory where that is not its own.
template <class T>
__global__ void __launch_bounds__(256)
    dilated_branches_train_normalise_kernel(const __grid_constant__ DilatedBranchesNormaliseParams p) {
    constexpr int SIDE = 64, PITCH = SIDE + 1;
    __shared__ float s_z[SIDE * PITCH];
    const Extent map = p.branches.map;
    const int b = branch_of(p.first_block, p.branches.count, blockIdx.y);
    const Branch& branch = p.branches.branch[b];
    const int o0 = (blockIdx.y - p.first_block[b]) * SIDE, channels = smaller(SIDE, branch.shape.o - o0);
    const long long p0 = 1LL * blockIdx.x * SIDE, all = 1LL * map.n * map.h * map.w;
    const int pixels = static_cast<int>(smaller<long long>(SIDE, all - p0));
    const T* g_z = static_cast<const T*>(p.z) + p0 * p.branches.channels + branch.first + o0;
    {
        const int channel = threadIdx.x % SIDE;
        if (channel < channels) {
            const int o = o0 + channel;
            const float mean = vector_or<T>(branch.norm.mean, o, 0), deviation = inverse_deviation<T>(branch.norm, o);
            const float gain = vector_or<T>(branch.norm.gain, o, 1), bias = vector_or<T>(branch.norm.bias, o, 0);
            for (int pixel = threadIdx.x / SIDE; pixel < pixels; pixel += 256 / SIDE) {
                const float v =
                    (widen(g_z[1LL * pixel * p.branches.channels + channel]) - mean) * deviation * gain + bias;
                s_z[pixel * PITCH + channel] = p.relu && v < 0 ? 0 : v;
            }
        }
    }
    __syncthreads();
    const bool channels_inside = p.y_c <= p.y_w;
    for (int e = threadIdx.x; e < SIDE * SIDE; e += 256) {
        const int pixel = channels_inside ? e / SIDE : e % SIDE, channel = channels_inside ? e % SIDE : e / SIDE;
        if (pixel >= pixels || channel >= channels) continue;
        const long long i = p0 + pixel;
        static_cast<T*>(p.y)[i / (1LL * map.h * map.w) * p.y_n + i / map.w % map.h * p.y_h + i % map.w * p.y_w +
                             (branch.first + o0 + channel) * p.y_c] = narrow<T>(s_z[pixel * PITCH + channel]);
    }
}

}  // namespace pk
