// separable_pyramid: a depthwise 3x3 convolution of every level's cells, zero outside each grid, and its gradients.
// Pooling, pointwise products and the resize are pyramid_pool's, pyramid_project's and upsample_merge's.
// Strides are in elements. float16, bfloat16 and float32 accumulate in float, double in double.
#pragma once

#include <cstdint>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/queue.h"

namespace pk {

inline constexpr int max_separable_levels = 8;

/// One level: a grid of cells, row-major, and its kernels.
struct SeparableLevel {
    int rows, cols;
    int first_cell;  // its first column among all cells
    void* weight;    // [C, 3, 3]; written as the weight's gradient by bwd_ddepthwise alone
    std::int64_t w_c, w_row, w_col;
};

struct SeparablePyramid {
    Dtype dtype;
    int n, c, cells, levels;  // cells: of all levels
    SeparableLevel level[max_separable_levels];
};

struct SeparablePyramidDepthwiseParams {
    SeparablePyramid pyramid;
    const void* x;  // [N, C, S]
    std::int64_t x_n, x_c, x_s;
    void* y;  // [N, C, S]
    std::int64_t y_n, y_c, y_s;
    bool turned;  // every kernel by half a turn: the gradient of the cells
};

struct SeparablePyramidBwdDdepthwiseParams {
    SeparablePyramid pyramid;  // whose weights are the gradients to write
    const void* dy;            // [N, C, S]
    std::int64_t dy_n, dy_c, dy_s;
    const void* x;  // [N, C, S]
    std::int64_t x_n, x_c, x_s;
};

Status launch_separable_pyramid_depthwise(const SeparablePyramidDepthwiseParams& params, Queue queue);
Status launch_separable_pyramid_bwd_ddepthwise(const SeparablePyramidBwdDdepthwiseParams& params, Queue queue);

}  // namespace pk
