// The gradient of the value before the activation: dy, cut off by the ReLU's mask.
#pragma once

#include "common/scalar.cuh"
#include "common/vec.cuh"

namespace pk::upsample_merge {

/// r[k] = `count` of V elements of g_dy from at[k] on, or zero where g_y, the ReLU's output if there is one, is zero.
/// Whole: by vectors. All K are under way together, and so are those of g_y.
template <bool Whole, class T, int K, int V>
__device__ __forceinline__ void incoming(const T* g_dy, const T* g_y, const long long (&at)[K], int count,
                                         Acc<T> (&r)[K][V]) {
    const T zero = narrow<T>(Acc<T>(0));
    Vec<T, V> dy[K], y[K];
#pragma unroll
    for (int k = 0; k < K; ++k) dy[k] = load_vec<V>(g_dy + at[k], Whole ? V : count, Whole, 1, zero);
    if (g_y != nullptr) {
#pragma unroll
        for (int k = 0; k < K; ++k) y[k] = load_vec<V>(g_y + at[k], Whole ? V : count, Whole, 1, zero);
    }
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
        for (int v = 0; v < V; ++v)
            r[k][v] = g_y != nullptr && widen(y[k][v]) <= Acc<T>(0) ? Acc<T>(0) : widen(dy[k][v]);
}

}  // namespace pk::upsample_merge
