// upsample_merge: maps of several resolutions brought to one, concatenated or summed, in one write. Free of CUDA.
#pragma once

#include <cstdint>

#include "common/dispatch.h"
#include "common/queue.h"
#include "common/resample.h"

namespace pk {

/// Maps per launch. A longer concat or list of gradients takes more launches; a sum is rounded once and cannot.
inline constexpr int upsample_merge_maps = 16;

/// A map, or its gradient, and where its channels stand in the output.
struct UpsampleMergeMap {
    void* data;          // (n, c, h, w)
    int c, h, w;         // a map of the output's h and w is taken as it is
    int first;           // its first channel in the output; 0 in a sum
    int64_t strides[4];  // n, c, h, w
};

/// What every launch is told: the output's shape and memory format, and the maps.
struct UpsampleMergeProblem {
    Dtype dtype;
    int n, c, h, w;      // of the output, dense
    bool channels_last;  // the output's memory format
    Resample how;        // never `taken`
    bool sum;            // of maps of the output's channels; else their concat
    int count;
    UpsampleMergeMap maps[upsample_merge_maps];
};

struct UpsampleMergeFwdParams {
    UpsampleMergeProblem problem;
    const void* scale;  // (c,) or null; of the maps' dtype if scale_is_t, else float32
    const void* shift;  // (c,) or null
    bool scale_is_t, shift_is_t;
    bool relu;
    void* y;  // (n, c, h, w)
};

/// Gradients of maps: problem.maps holds where they go.
struct UpsampleMergeBwdMapsParams {
    UpsampleMergeProblem problem;
    const void* dy;     // (n, c, h, w)
    const void* y;      // (n, c, h, w), the output, where a ReLU made it; or null
    const void* scale;  // (c,) or null
    bool scale_is_t;
};

/// Sums for the gradients of shift and scale over `parts` shares of the pixels. Without maps: of shift alone.
struct UpsampleMergeBwdAffineParams {
    UpsampleMergeProblem problem;
    const void* dy;  // (n, c, h, w)
    const void* y;   // (n, c, h, w) or null
    int parts;
    void* part;  // (1 or 2, parts, c) of float32, float64 for float64: dshift, dscale
};

struct UpsampleMergeSumsParams {
    Dtype dtype;  // of the maps
    int rows;     // 1 or 2
    int parts, c;
    const void* part;  // (rows, parts, c)
    void* sums;        // (rows, c)
};

Status launch_upsample_merge_fwd(const UpsampleMergeFwdParams& params, Queue queue);
Status launch_upsample_merge_bwd_dmaps(const UpsampleMergeBwdMapsParams& params, Queue queue);
Status launch_upsample_merge_bwd_affine(const UpsampleMergeBwdAffineParams& params, Queue queue);
Status launch_upsample_merge_sums(const UpsampleMergeSumsParams& params, Queue queue);

}  // namespace pk
