// Sums over a block in fixed order.
#pragma once

#include "common/platform.cuh"

namespace pk {

/// Add up the values of the threads t, t + stride, t + 2 stride ...: the sums end in the threads t < stride. `stride`
/// and the block, one-dimensional, are powers of two; s_part holds V values per thread and may be used again at once.
template <int V, class A>
__device__ __forceinline__ void sum_strided(A (&r)[V], A* s_part, int stride) {
    const int threads = blockDim.x, t = threadIdx.x;
    if (stride >= threads) return;
#pragma unroll
    for (int v = 0; v < V; ++v) s_part[v * threads + t] = r[v];
    for (int half = threads / 2; half >= stride; half /= 2) {
        __syncthreads();
        if (t >= half) continue;
#pragma unroll
        for (int v = 0; v < V; ++v) s_part[v * threads + t] += s_part[v * threads + t + half];
    }
#pragma unroll
    for (int v = 0; v < V; ++v) r[v] = s_part[v * threads + t];
    __syncthreads();
}

}  // namespace pk
