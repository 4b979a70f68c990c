// The gradient of the value before the activation: dy, cut off by the ReLU's mask.
#pragma once

#include "common/scalar.cuh"
#include "common/vec.cuh"

namespace pk::upsample_merge {

/// Element `at` of g_dy, or zero where g_y, the ReLU's output if there is one, is zero.
template <class T>
__device__ __forceinline__ Acc<T> incoming(const T* g_dy, const T* g_y, long long at) {
    const Acc<T> dy = widen(g_dy[at]);
    return g_y != nullptr && widen(g_y[at]) <= Acc<T>(0) ? Acc<T>(0) : dy;
}

/// The same for `count` of V elements side by side.
template <class T, int V>
__device__ __forceinline__ void incoming(const T* g_dy, const T* g_y, long long at, int count, bool aligned,
                                         Acc<T> (&r)[V]) {
    const T zero = narrow<T>(Acc<T>(0));
    const Vec<T, V> dy = load_vec<V>(g_dy + at, count, aligned, 1, zero);
#pragma unroll
    for (int v = 0; v < V; ++v) r[v] = widen(dy[v]);
    if (g_y == nullptr) return;
    const Vec<T, V> y = load_vec<V>(g_y + at, count, aligned, 1, zero);
#pragma unroll
    for (int v = 0; v < V; ++v) r[v] = widen(y[v]) <= Acc<T>(0) ? Acc<T>(0) : r[v];
}

}  // namespace pk::upsample_merge
