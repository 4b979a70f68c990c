// pyramid_pool: every bin of a spatial pyramid in one read of the map, and its gradient in one write.
#pragma once

#include <cstdint>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/queue.h"
#include "common/windows.h"

namespace pk {

/// The levels of a pyramid, each of rows x cols bins; cells are packed level by level, row-major.
struct PyramidPoolBins {
    static constexpr int max_levels = 8, max_bins = 64;
    int levels;
    int bins[max_levels][2];  // rows, cols
    Windows windows;
    bool max;  // first maximum instead of average
};

struct PyramidPoolFwdParams {
    const void* x;      // [N, C, H, W], any strides
    void* y;            // [N, C, S], any strides
    int* indices;       // [N, C, S] as y: the flat place of each maximum in H * W; null for averages
    void* parts;        // pyramid_pool_parts elements of the accumulation type; null where that is 0
    int* part_indices;  // as many, for maxima
    int64_t n, c, h, w;
    int64_t sn, sc, sh, sw;  // strides of x
    int64_t yn, yc, ys;      // strides of y and indices
    PyramidPoolBins pyramid;
    Dtype dtype;
    int processors;  // multiprocessors of the device
};

struct PyramidPoolBwdParams {
    const void* dy;      // [N, C, S], any strides
    const int* indices;  // [N, C, S] as dy; null for averages
    void* dx;            // [N, C, H, W], any strides
    int64_t n, c, h, w;
    int64_t sn, sc, sh, sw;  // strides of dx
    int64_t gn, gc, gs;      // strides of dy and indices
    PyramidPoolBins pyramid;
    Dtype dtype;
    int processors;
};

/// How many partial results the forward pass keeps between its two launches; 0 where one launch does it all.
Status pyramid_pool_parts(const PyramidPoolFwdParams& p, int64_t& parts);

Status launch_pyramid_pool_fwd(const PyramidPoolFwdParams& p, Queue queue);
Status launch_pyramid_pool_bwd(const PyramidPoolBwdParams& p, Queue queue);

}  // namespace pk
