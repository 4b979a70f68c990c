// A map that kernels read as if it were bilinearly resized. Free of CUDA.
#pragma once

#include <cstdint>

#include "common/dispatch.h"
#include "common/resample.h"

namespace pk {

/// What a launcher is told: an (n, c, h, w) map of any strides, and the size at which it is seen.
struct UpsampledProblem {
    Dtype dtype;
    const void* data;  // (n, c, h, w)
    int n, c, h, w;
    int64_t strides[4];  // n, c, h, w
    int rows, cols;
    bool align_corners;
};

/// The same, as kernels take it. A map of that size already is taken as it is.
struct Upsampled {
    const void* data;
    int n, c;
    int64_t strides[4];
    ResizedAxis y, x;
    bool aligned;  // vectors of `classes_at_once` may be read
};

/// Classes that a thread holds at once.
inline constexpr int classes_at_once = 8;

/// `itemsize`: of the map's elements.
inline Status upsampled_of(const UpsampledProblem& p, int itemsize, Upsampled& m) {
    PK_CHECK(p.n >= 0 && p.c >= 1, "logits must be (n, c, h, w), got (", p.n, ", ", p.c, ", ", p.h, ", ", p.w, ")");
    PK_CHECK(static_cast<long long>(p.rows) * p.cols < (1LL << 31), "a result of ", p.rows, " x ", p.cols,
             " pixels is too large");
    m = {p.data, p.n, p.c, {p.strides[0], p.strides[1], p.strides[2], p.strides[3]}, {}, {}, false};
    const int bytes = classes_at_once * itemsize, sizes[] = {p.n, p.c, p.h, p.w};
    m.aligned = p.strides[1] == 1 && reinterpret_cast<uintptr_t>(p.data) % bytes == 0;
    for (int d : {0, 2, 3}) m.aligned &= sizes[d] <= 1 || p.strides[d] * itemsize % bytes == 0;
    const bool taken = p.h == p.rows && p.w == p.cols;
    const Resample how = p.align_corners ? Resample::align_corners : Resample::half_pixel;
    PK_TRY(resized_axis(how, p.h, p.rows, taken, m.y));
    return resized_axis(how, p.w, p.cols, taken, m.x);
}

}  // namespace pk
