// Label map: a thread owns one output column of some rows and walks through all classes, a few at a time; of each row
// it keeps the largest value so far. Bound by arithmetic: about three instructions per class and pixel.
//
// grid:   x images x row tiles x column tiles
// block:  a thread per column
// shared: none
#pragma once

#include "common/labels.cuh"
#include "common/upsampled.cuh"

namespace pk::upsample_argmax {

template <class T>
__global__ void __launch_bounds__(column_threads, 4)
    upsample_argmax_fwd_kernel(const __grid_constant__ Upsampled m, void* g_labels, LabelType type) {
    using A = Acc<T>;
    constexpr int R = rows_deep<T>;
    const Place at = place_of<T>(m);
    if (at.x >= m.x.full) return;
    A top[R];
    int label[R];
#pragma unroll
    for (int r = 0; r < R; ++r) top[r] = A(-INFINITY), label[r] = 0;
    each_class<T>(m, at, [&](int r, int first, const A(&v)[classes_at_once]) {
#pragma unroll
        for (int k = 0; k < classes_at_once; ++k) {
            const bool nan = v[k] != v[k] && top[r] == top[r];  // the first one stays
            if (v[k] > top[r] || nan) top[r] = v[k], label[r] = first + k;
        }
    });
#pragma unroll
    for (int r = 0; r < R; ++r) {
        if (at.y + r >= m.y.full) break;
        store_label(g_labels, type, (static_cast<long long>(at.n) * m.y.full + at.y + r) * m.x.full + at.x, label[r]);
    }
}

}  // namespace pk::upsample_argmax
