// pyramid_conv: what follows the products of its levels, and what precedes their gradients. Free of CUDA.
#pragma once

#include <cstdint>

#include "common/dispatch.h"
#include "common/queue.h"
#include "common/resample.h"

namespace pk {

/// Levels per launch. A longer list of gradients takes more launches; a merge is rounded once and cannot.
inline constexpr int pyramid_conv_levels = 16;

/// The products of one level at its own resolution, or their gradient.
struct PyramidConvLevel {
    void* data;  // (n, k * k * o, h, w), the o channels of a tap side by side
    int h, w;
    int64_t strides[4];  // n, k * k * o, h, w
};

/// What every launch is told: the output's shape and memory format, and the levels.
struct PyramidConvProblem {
    Dtype dtype;
    int n, o, h, w;      // of the output, dense
    bool channels_last;  // the output's memory format
    Resample how;        // never `taken`
    int k;               // taps along an axis: 1 or 3
    int count;
    PyramidConvLevel levels[pyramid_conv_levels];
};

/// A map of the output's size that the merge multiplies itself (k = 1 only).
struct PyramidConvOperand {
    const void* x;       // (n, c, h, w), or null
    int64_t strides[4];  // n, c, h, w
    int c;
    const void* weight;  // (o, c)
    int64_t weight_o, weight_c;
    bool tf32;  // a float32 product in TF32; else as IEEE says
};

struct PyramidConvMergeParams {
    PyramidConvProblem problem;
    PyramidConvOperand operand;
    const void* base;   // (n, o, h, w), what is convolved at full size, or null; may be y. Null beside an operand
    const void* bias;   // (o,) or null; of the maps' dtype if bias_is_t, else float32
    const void* scale;  // (o,) or null
    const void* shift;  // (o,) or null
    bool bias_is_t, scale_is_t, shift_is_t;
    bool relu;
    void* y;  // (n, o, h, w)
    void* z;  // (n, o, h, w), the value before scale and shift, or null
};

/// Gradients of the products: problem.levels holds where they go.
struct PyramidConvBwdLevelsParams {
    PyramidConvProblem problem;
    const void* dz;  // (n, o, h, w)
};

Status launch_pyramid_conv_merge(const PyramidConvMergeParams& params, Queue queue);
Status launch_pyramid_conv_bwd_dlevels(const PyramidConvBwdLevelsParams& params, Queue queue);

}  // namespace pk
