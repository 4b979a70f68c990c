// Gradients of the depthwise kernels.
//
// Owns: a block owns all rows (image, cell) of 16 channels of one level; a thread every 16th row of one channel, for
// nine taps. The 16 sums of a tap and channel are added in order.
// Grid: blocks of channels x levels. Shared bytes: 19,584 for double, half of it otherwise.
// Bound: the longest level's rows, a sixteenth of them after one another.
#pragma once

#include "common/hd.h"
#include "common/scalar.cuh"
#include "separable_pyramid/separable_pyramid.h"

namespace pk {

struct DdepthwiseBlock {
    static constexpr int CHANNELS = 16, SLOTS = 16, THREADS = CHANNELS * SLOTS, TAPS = 9;
};

// Two blocks per multiprocessor: for more, ptxas spills in double.
template <class T>
__global__ void __launch_bounds__(DdepthwiseBlock::THREADS, 2)
    separable_pyramid_bwd_ddepthwise_kernel(const __grid_constant__ SeparablePyramidBwdDdepthwiseParams p) {
    constexpr int CHANNELS = DdepthwiseBlock::CHANNELS, SLOTS = DdepthwiseBlock::SLOTS, TAPS = DdepthwiseBlock::TAPS;
    __shared__ Acc<T> s_sums[TAPS][CHANNELS][SLOTS + 1];
    const SeparablePyramid& pyramid = p.pyramid;
    const SeparableLevel& level = pyramid.level[blockIdx.y];
    const int thread = threadIdx.x, c0 = blockIdx.x * CHANNELS;
    const bool channels_inside = p.x_c <= p.x_s;  // neighbours in memory are read by neighbouring threads
    const int channel = channels_inside ? thread % CHANNELS : thread / SLOTS;
    const int slot = channels_inside ? thread / CHANNELS : thread % SLOTS;

    Acc<T> sums[TAPS] = {};
    if (c0 + channel < pyramid.c) {
        const T* g_dy = static_cast<const T*>(p.dy) + (c0 + channel) * p.dy_c + level.first_cell * p.dy_s;
        const T* g_x = static_cast<const T*>(p.x) + (c0 + channel) * p.x_c + level.first_cell * p.x_s;
        const int cells = level.rows * level.cols;
        for (int r = slot; r < pyramid.n * cells; r += SLOTS) {
            const long long image = r / cells, cell = r % cells;
            const int row = static_cast<int>(cell) / level.cols, col = static_cast<int>(cell) % level.cols;
            const Acc<T> dy = widen(g_dy[image * p.dy_n + cell * p.dy_s]);
#pragma unroll
            for (int t = 0; t < TAPS; ++t) {
                const int y = row + t / 3 - 1, x = col + t % 3 - 1;
                if (y < 0 || y >= level.rows || x < 0 || x >= level.cols) continue;
                sums[t] += dy * widen(g_x[image * p.x_n + (y * level.cols + x) * p.x_s]);
            }
        }
    }
#pragma unroll
    for (int t = 0; t < TAPS; ++t) s_sums[t][channel][slot] = sums[t];
    __syncthreads();

    const int tap = thread / CHANNELS, own = thread % CHANNELS;
    if (tap >= TAPS || c0 + own >= pyramid.c) return;
    Acc<T> sum = 0;
    for (int i = 0; i < SLOTS; ++i) sum += s_sums[tap][own][i];
    T* g_dw = static_cast<T*>(level.weight) + (c0 + own) * level.w_c;
    g_dw[tap / 3 * level.w_row + tap % 3 * level.w_col] = narrow<T>(sum);
}

}  // namespace pk
