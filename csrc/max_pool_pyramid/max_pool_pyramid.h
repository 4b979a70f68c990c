// max_pool_pyramid: a map and its stride-1, same-padded max pools in one concat, and the gradient of x in one write.
#pragma once

#include <cstdint>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/queue.h"

namespace pk {

/// Odd pools, the smallest first: each of x or, in a cascade, of the one before.
struct MaxPools {
    static constexpr int max_levels = 8, max_size = 15, max_reach = 12;
    int levels;
    int size[max_levels];
    bool cascade;
    bool descending;  // the concat holds the last pool first and x last
};

struct MaxPoolPyramidProblem {
    int64_t n, c, h, w;
    int64_t strides[4];  // of the one tensor that may have any: x, or dy
    MaxPools pools;
    bool channels_last;  // how the other tensors are laid out, dense
    Dtype dtype;
    int processors;  // multiprocessors of the device
};

struct MaxPoolPyramidFwdParams {
    MaxPoolPyramidProblem problem;
    const void* x;     // [N, C, H, W], any strides
    void* y;           // [N, (1 + K) * C, H, W]
    uint8_t* indices;  // [N, K * C, H, W]: the place of each maximum in its window, row-major; or null
};

struct MaxPoolPyramidBwdParams {
    MaxPoolPyramidProblem problem;
    const void* dy;          // [N, (1 + K) * C, H, W], any strides
    const uint8_t* indices;  // [N, K * C, H, W]
    void* dx;                // [N, C, H, W]
};

Status launch_max_pool_pyramid_fwd(const MaxPoolPyramidFwdParams& p, Queue queue);
Status launch_max_pool_pyramid_bwd(const MaxPoolPyramidBwdParams& p, Queue queue);

}  // namespace pk
