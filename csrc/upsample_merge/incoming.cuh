// The gradient of the value before the activation: dy, cut off by the ReLU's mask.
#pragma once

#include "common/scalar.cuh"
#include "common/vec.cuh"

namespace pk::upsample_merge {

/// r[k] = `count` of V elements of g_dy from at[k] on, or zero where g_y, the ReLU's output if there is one, is zero.
/// Whole: by vectors. All K are under way together, then those of g_y; they stay in their type until they are used,
/// which takes half of the registers.
template <bool Whole, class T, int K, int V>
__device__ __forceinline__ void incoming(const T* g_dy, const T* g_y, const long long (&at)[K], int count,
                                         Vec<T, V> (&r)[K]) {
    const T zero = narrow<T>(Acc<T>(0));
#pragma unroll
    for (int k = 0; k < K; ++k) r[k] = load_vec<V>(g_dy + at[k], Whole ? V : count, Whole, 1, zero);
    if (g_y == nullptr) return;
    Vec<T, V> y[K];
#pragma unroll
    for (int k = 0; k < K; ++k) y[k] = load_vec<V>(g_y + at[k], Whole ? V : count, Whole, 1, zero);
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
        for (int v = 0; v < V; ++v) r[k][v] = widen(y[k][v]) <= Acc<T>(0) ? zero : r[k][v];
}

}  // namespace pk::upsample_merge
