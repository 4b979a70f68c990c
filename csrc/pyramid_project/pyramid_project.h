// pyramid_project: every level's cells times that level's own matrix, then a norm or affine, then ReLU.
// Strides are in elements. float16, bfloat16 and float32 accumulate in float, double in double.
#pragma once

#include <cstdint>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/norm.h"
#include "common/queue.h"

namespace pk {

inline constexpr int max_project_levels = 8;

/// One level: `cells` columns of pooled, `channels` channels of the result.
struct ProjectLevel {
    int cells;
    int channels;
    int first_cell;     // its first column in pooled
    int first_channel;  // its first channel in the result
    int first_block;    // set by the launcher
    void* weight;       // [O, C]; written as the weight's gradient by bwd_dweights alone
    std::int64_t w_o, w_c;
    Norm norm;  // [O] each
};

/// The dimensions that all products share. `full` is the number of cells of the largest level.
struct ProjectPyramid {
    Dtype dtype;
    bool tf32;  // float32 products in TF32; else as IEEE says
    int n, c, full, levels;
    ProjectLevel level[max_project_levels];
};

struct PyramidProjectFwdParams {
    ProjectPyramid pyramid;
    const void* pooled;  // [N, C, S]
    std::int64_t x_n, x_c, x_s;
    void* y;  // [N, sum O, S']
    void* z;  // [N, sum O, S'], the products before the epilogue, with the strides of y; or null
    std::int64_t y_n, y_c, y_s;
    bool relu;
};

struct PyramidProjectBwdDzParams {
    ProjectPyramid pyramid;
    const void* dy;  // [N, sum O, S']
    void* dz;        // [N, sum O, S'], with the strides of dy
    std::int64_t dy_n, dy_c, dy_s;
    const void* y;  // [N, sum O, S'], masks dy where ReLU followed; or null
    const void* z;  // [N, sum O, S'], with the strides of y; or null: dgain is zero
    std::int64_t y_n, y_c, y_s;
    void* sums;  // [2, sum O] dgain and dbias, float32 or, for float64, double
    std::int64_t sums_row;
};

struct PyramidProjectBwdDpooledParams {
    ProjectPyramid pyramid;
    const void* dz;  // [N, sum O, S']
    std::int64_t dz_n, dz_c, dz_s;
    void* dpooled;  // [N, C, S]
    std::int64_t x_n, x_c, x_s;
};

struct PyramidProjectBwdDweightsParams {
    ProjectPyramid pyramid;  // whose weights are the gradients to write
    const void* dz;          // [N, sum O, S']
    std::int64_t dz_n, dz_c, dz_s;
    const void* pooled;  // [N, C, S]
    std::int64_t x_n, x_c, x_s;
};

Status launch_pyramid_project_fwd(const PyramidProjectFwdParams& params, Queue queue);
Status launch_pyramid_project_bwd_dz(const PyramidProjectBwdDzParams& params, Queue queue);
Status launch_pyramid_project_bwd_dpooled(const PyramidProjectBwdDpooledParams& params, Queue queue);
Status launch_pyramid_project_bwd_dweights(const PyramidProjectBwdDweightsParams& params, Queue queue);

}  // namespace pk
