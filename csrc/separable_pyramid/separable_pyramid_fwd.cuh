// Depthwise 3x3 of all levels, and with turned kernels the gradient of their cells.
//
// Owns: a thread owns one cell of one channel of one image; neighbours in memory belong to neighbouring threads.
// Grid: all elements in a row. Shared bytes: none. Bound: launch latency; a pyramid's cells fit in L2 many times over.
#pragma once

#include "common/hd.h"
#include "common/scalar.cuh"
#include "separable_pyramid/separable_pyramid.h"

namespace pk {

inline constexpr int depthwise_threads = 128;

template <class T>
__global__ void __launch_bounds__(depthwise_threads)
    separable_pyramid_depthwise_kernel(const __grid_constant__ SeparablePyramidDepthwiseParams p) {
    const SeparablePyramid& pyramid = p.pyramid;
    const long long element = 1LL * blockIdx.x * depthwise_threads + threadIdx.x;
    if (element >= 1LL * pyramid.n * pyramid.c * pyramid.cells) return;
    const bool channels_inside = p.y_c <= p.y_s;
    const long long image = element / (1LL * pyramid.c * pyramid.cells);
    const int inside = static_cast<int>(element - image * pyramid.c * pyramid.cells);
    const int channel = channels_inside ? inside % pyramid.c : inside / pyramid.cells;
    const int s = channels_inside ? inside / pyramid.c : inside % pyramid.cells;
    int l = 0;
    while (l + 1 < pyramid.levels && s >= pyramid.level[l + 1].first_cell) ++l;
    const SeparableLevel& level = pyramid.level[l];
    const int row = (s - level.first_cell) / level.cols, col = (s - level.first_cell) % level.cols;

    const T* g_w = static_cast<const T*>(level.weight) + channel * level.w_c;
    const T* g_x = static_cast<const T*>(p.x) + image * p.x_n + channel * p.x_c + s * p.x_s;
    Acc<T> sum = 0;
#pragma unroll
    for (int down = -1; down <= 1; ++down) {
        if (row + down < 0 || row + down >= level.rows) continue;
#pragma unroll
        for (int right = -1; right <= 1; ++right) {
            if (col + right < 0 || col + right >= level.cols) continue;
            const int tap_row = p.turned ? 1 - down : 1 + down, tap_col = p.turned ? 1 - right : 1 + right;
            sum += widen(g_w[tap_row * level.w_row + tap_col * level.w_col]) *
                   widen(g_x[(down * level.cols + right) * p.x_s]);
        }
    }
    static_cast<T*>(p.y)[image * p.y_n + channel * p.y_c + s * p.y_s] = narrow<T>(sum);
}

}  // namespace pk
