// What lies between dy and the products of the backward: dz = dy * mask * multiplier, with the sums that the gradients
// of gain, bias and batch statistics are made of; and the gradient of the image bias. All bound by bandwidth.
#pragma once

#include "common/norm.cuh"
#include "common/scalar.cuh"
#include "dilated_branches/dilated_branches.h"

namespace pk {

struct BranchDzBlock {
    static constexpr int PIXELS = dz_pixels, CHANNELS = 64, THREADS = 256, PITCH = CHANNELS + 1;
};

/// Copy 64 pixels x 64 channels to s_tile [PIXELS][PITCH], neighbouring threads along whichever is contiguous.
template <class T, class At>
__device__ __forceinline__ void load_tile(const T* g, bool channels_inside, int pixels, int channels, float* s_tile,
                                          At&& at) {
    using B = BranchDzBlock;
    for (int e = threadIdx.x; e < B::PIXELS * B::CHANNELS; e += B::THREADS) {
        const int pixel = channels_inside ? e / B::CHANNELS : e % B::PIXELS;
        const int channel = channels_inside ? e % B::CHANNELS : e / B::PIXELS;
        if (pixel < pixels && channel < channels) s_tile[pixel * B::PITCH + channel] = widen(g[at(pixel, channel)]);
    }
}

/// Owns: a block owns 64 pixels and 64 channels of one branch. Both maps pass through shared memory, so that either
/// layout is read along its contiguous side. Four threads share a channel; their sums are added in order.
/// Grid: x blocks of pixels, y blocks of channels of all branches. Shared bytes: 33,280 + 2,048.
template <class T>
__global__ void __launch_bounds__(BranchDzBlock::THREADS)
    dilated_branches_bwd_dz_kernel(const __grid_constant__ DilatedBranchesBwdDzParams p) {
    using B = BranchDzBlock;
    __shared__ float s_dy[B::PIXELS * B::PITCH], s_saved[B::PIXELS * B::PITCH], s_sums[2][B::THREADS];
    const Extent map = p.branches.map;
    const int b = branch_of(p.first_block, p.branches.count, blockIdx.y);
    const Branch& branch = p.branches.branch[b];
    const int o0 = (blockIdx.y - p.first_block[b]) * B::CHANNELS, channels = smaller(B::CHANNELS, branch.shape.o - o0);
    const long long p0 = 1LL * blockIdx.x * B::PIXELS, all = 1LL * map.n * map.h * map.w;
    const int pixels = static_cast<int>(smaller<long long>(B::PIXELS, all - p0));
    const auto at = [&](int pixel, int channel, int c0, long long n, long long c, long long h, long long w) {
        const long long i = p0 + pixel;
        return i / (1LL * map.h * map.w) * n + i / map.w % map.h * h + i % map.w * w + (c0 + channel) * c;
    };
    const int out0 = (p.sum ? 0 : branch.first) + o0;
    load_tile(static_cast<const T*>(p.dy), p.dy_c <= p.dy_w, pixels, channels, s_dy,
              [&](int pixel, int channel) { return at(pixel, channel, out0, p.dy_n, p.dy_c, p.dy_h, p.dy_w); });
    if (p.saved) {
        const int saved0 = p.kept ? branch.first + o0 : out0;
        load_tile(static_cast<const T*>(p.saved), p.s_c <= p.s_w, pixels, channels, s_saved,
                  [&](int pixel, int channel) { return at(pixel, channel, saved0, p.s_n, p.s_c, p.s_h, p.s_w); });
    }
    __syncthreads();

    const int channel = threadIdx.x % B::CHANNELS, quarter = threadIdx.x / B::CHANNELS, o = o0 + channel;
    float weighted = 0, plain = 0;
    if (channel < channels) {
        const float center = vector_or<T>(branch.norm.mean, o, 0), deviation = inverse_deviation<T>(branch.norm, o);
        const float gain = vector_or<T>(branch.norm.gain, o, 1), bias = vector_or<T>(branch.norm.bias, o, 0);
        float share = 0, mean_g = 0;
        if (p.sums) {
            share = p.sums[branch.first + o] / all;
            mean_g = p.sums[p.branches.channels + branch.first + o] / all;
        }
        for (int pixel = quarter; pixel < pixels; pixel += B::THREADS / B::CHANNELS) {
            float g = s_dy[pixel * B::PITCH + channel], normal = g;
            const float saved = p.saved ? s_saved[pixel * B::PITCH + channel] : 1;
            if (p.kept) normal = (saved - center) * deviation;
            if (p.relu && (p.kept ? normal * gain + bias : saved) <= 0) g = 0;  // where it is NaN, g passes
            weighted += p.kept ? g * normal : 0;
            plain += g;
            if (p.sums) g = g - mean_g - normal * share;
            if (p.dz)
                static_cast<T*>(p.dz)[(p0 + pixel) * p.branches.channels + branch.first + o] =
                    narrow<T>(g * (gain * deviation));
        }
    }
    if (!p.part) return;
    s_sums[0][threadIdx.x] = weighted, s_sums[1][threadIdx.x] = plain;
    __syncthreads();
    if (quarter != 0 || channel >= channels) return;
    for (int which = 0; which < 2; ++which) {
        float sum = 0;
        for (int q = 0; q < B::THREADS / B::CHANNELS; ++q) sum += s_sums[which][q * B::CHANNELS + channel];
        p.part[(2LL * blockIdx.x + which) * p.branches.channels + branch.first + o] = sum;
    }
}

/// Partial sums [tiles, length] -> [length]. Owns: a block owns 32 sums; eight threads share one, each with every
/// eighth tile, and are added in order.
__global__ void __launch_bounds__(256)
    dilated_branches_bwd_sums_kernel(const __grid_constant__ DilatedBranchesSumsParams p) {
    __shared__ float s_sums[8][32];
    const int lane = threadIdx.x % 32, part = threadIdx.x / 32, i = blockIdx.x * 32 + lane;
    float sum = 0;
    if (i < p.length)
        for (int tile = part; tile < p.tiles; tile += 8) sum += p.part[1LL * tile * p.length + i];
    s_sums[part][lane] = sum;
    __syncthreads();
    if (part != 0 || i >= p.length) return;
    for (int other = 1; other < 8; ++other) sum += s_sums[other][lane];
    p.sums[i] = sum;
}

/// The image bias's gradient: dz summed over the pixels whose tap lies inside the map. Owns: a block owns 64 channels
/// of one tap of one image; four threads share a channel and are added in order.
template <class T>
__global__ void __launch_bounds__(256)
    dilated_branches_bwd_dimage_kernel(const __grid_constant__ DilatedBranchesBwdDimageParams p) {
    __shared__ float s_sums[256];
    const int taps = p.shape.side * p.shape.side, tap = blockIdx.x % taps, image = blockIdx.x / taps;
    const int channel = threadIdx.x % 64, quarter = threadIdx.x / 64, o = blockIdx.y * 64 + channel;
    const TapRectangle area(p.map, p.shape, tap);
    const T* g_dz = static_cast<const T*>(p.dz) + image * p.dz_n + o;
    float sum = 0;
    if (o < p.shape.o)
        for (int i = quarter; i < area.rows * area.cols; i += 4)
            sum += widen(g_dz[(area.y0 + i / area.cols) * p.dz_h + (area.x0 + i % area.cols) * p.dz_w]);
    s_sums[threadIdx.x] = sum;
    __syncthreads();
    if (quarter != 0 || o >= p.shape.o) return;
    for (int other = 1; other < 4; ++other) sum += s_sums[other * 64 + channel];
    static_cast<T*>(p.dimage)[(1LL * image * p.shape.o + o) * taps + tap] = narrow<T>(sum);
}

}  // namespace pk
