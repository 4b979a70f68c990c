// The small products between the passes over a map: one image's vectors lie in shared memory, weights are read from L2.
#pragma once

#include "channel_gate/channel_gate.h"
#include "common/block_sum.cuh"
#include "common/norm.cuh"
#include "common/platform.cuh"
#include "common/reduce.cuh"
#include "common/vec.cuh"

namespace pk::channel_gate {

inline constexpr int product_threads = 256, product_warps = product_threads / 32;
/// Channels of one image whose gates, or gradients of means, a block owns: those of a warp.
inline constexpr int owned = 32;

/// What a block of either direction's products is told.
struct Layers {
    int c, k, parts, pixels;
    HiddenActivation activation;
    bool hard;
    ChannelGateWeight weight1, weight2;
    ChannelVector bias1, bias2;
    Norm norm1;
};

/// s_sums[i] = the sum of channel i over all parts (parts, c) of an image, in an order that hangs on their sizes alone:
/// by the whole block, threads along channels first; complete after the next barrier.
template <class A>
__device__ __forceinline__ void sum_parts(const A* g_part, const Layers& p, A* s_sums) {
    constexpr int V = vec_size<A>, K = 8;  // parts under way
    __shared__ A s_part[V * product_threads];
    const bool whole = is_aligned(g_part, 16, p.c * sizeof(A));
    int width = product_threads;  // threads along channels
    while (width > 1 && width / 2 * V >= p.c) width /= 2;
    for (int first = 0; first < p.c; first += width * V) {
        const int t = threadIdx.x, rows = product_threads / width, c = first + t % width * V;
        A sum[V] = {};
        for (int part = t / width; c < p.c && part < p.parts; part += K * rows) {
            Vec<A, V> r[K];
            load_vecs(
                r, whole, 1, A(0),
                [&](int k) { return g_part + smaller(part + k * rows, p.parts - 1) * static_cast<int64_t>(p.c) + c; },
                [&](int) { return p.c - c; });
#pragma unroll
            for (int k = 0; k < K; ++k) {
                if (part + k * rows >= p.parts) break;
#pragma unroll
                for (int v = 0; v < V; ++v) sum[v] += r[k][v];
            }
        }
        sum_strided(sum, s_part, width);
#pragma unroll
        for (int v = 0; v < V; ++v)
            if (t < width && c + v < p.c) s_sums[c + v] = sum[v];
    }
}

/// Rows of weights whose products a warp makes at once, a vector of each under way.
inline constexpr int rows_deep = 4;

/// Lane k < rows_deep of a warp gets the product of row first + k * product_warps of a weight, before row `last`, and
/// of s_in (count,).
template <class T>
__device__ __forceinline__ Acc<T> row_products(const ChannelGateWeight& weight, int first, int last, const Acc<T>* s_in,
                                               int count) {
    using A = Acc<T>;
    constexpr int V = vec_size<T>, K = rows_deep, Q = vec_size<A>;
    const int lane = threadIdx.x % 32;
    const T* g_w = static_cast<const T*>(weight.at);
    const bool whole =
        weight.columns == 1 && count % V == 0 && is_aligned(g_w, 16, weight.rows * sizeof(T)) && is_aligned(s_in, 16);
    Sum<A> sum[K];
    for (int i = lane * V; i < count; i += 32 * V) {
        Vec<T, V> w[K];
        Vec<A, Q> in[V / Q];
        load_vecs(
            w, whole, weight.columns, narrow<T>(A(0)),
            [&](int k) {
                return g_w + smaller(first + k * product_warps, last - 1) * weight.rows + i * weight.columns;
            },
            [&](int) { return count - i; });
        load_vecs(
            in, whole, 1, A(0), [&](int q) { return s_in + i + q * Q; }, [&](int q) { return count - i - q * Q; });
#pragma unroll
        for (int k = 0; k < K; ++k)
#pragma unroll
            for (int v = 0; v < V; ++v) sum[k].take(widen(w[k][v]) * in[v / Q][v % Q], i);
    }
    A own = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
        join_lanes(sum[k], 1, 32);
        if (lane == k) own = sum[k].value;
    }
    return own;
}

/// Lane l of warp 0 gets the product of s_in (depth,) and column l of 32, of which `columns` exist. For the whole
/// block; s_part holds a value per thread. A warp reads several rows at once, a vector of columns a lane.
template <class T>
__device__ __forceinline__ Acc<T> column_product(const T* g_columns, int64_t down, int64_t across, int columns,
                                                 const Acc<T>* s_in, int depth, Acc<T>* s_part) {
    using A = Acc<T>;
    constexpr int V = vec_size<T>, LANES = 32 / V, K = rows_deep;  // lanes along columns
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = lane % LANES * V, left = columns - column;
    const int step = product_threads / LANES;  // rows that the block reads at once
    const bool whole = across == 1 && left >= V && is_aligned(g_columns, 16, down * sizeof(T));
    Sum<A> sum[V];
    for (int i = threadIdx.x / LANES; left > 0 && i < depth; i += K * step) {
        Vec<T, V> w[K];
        load_vecs(
            w, whole, across, narrow<T>(A(0)),
            [&](int k) { return g_columns + smaller(i + k * step, depth - 1) * down + column * across; },
            [&](int) { return left; });
#pragma unroll
        for (int k = 0; k < K; ++k) {
            if (i + k * step >= depth) break;
#pragma unroll
            for (int v = 0; v < V; ++v) sum[v].take(widen(w[k][v]) * s_in[i + k * step], i);
        }
    }
#pragma unroll
    for (int v = 0; v < V; ++v) {
        join_lanes(sum[v], LANES, 32);
        if (lane < LANES) s_part[warp * 32 + column + v] = sum[v].value;
    }
    __syncthreads();
    A total = 0;
    if (threadIdx.x < 32)
        for (int other = 0; other < product_warps; ++other) total += s_part[other * 32 + lane];
    __syncthreads();
    return total;
}

/// What the norm or affine of hidden channel j multiplies by.
template <class T>
__device__ __forceinline__ Acc<T> gain(const Norm& norm, int j) {
    return vector_or<T>(norm.gain, j, 1) * inverse_deviation<T>(norm, j);
}

template <class A>
__device__ __forceinline__ A sigmoid(A z) {
    return A(1) / (A(1) + exp(-z));
}

/// Hidden channel j of the product z.
template <class T>
__device__ __forceinline__ Acc<T> hidden_value(const Layers& p, int j, Acc<T> z) {
    z = activated<T>(p.norm1, j, z, p.activation == HiddenActivation::relu);
    return p.activation == HiddenActivation::silu ? z * sigmoid(z) : z;
}

/// The gradient of what the activation of hidden channel j, of the product z, is given; d is that of its result.
template <class T>
__device__ __forceinline__ Acc<T> hidden_gradient(const Layers& p, int j, Acc<T> z, Acc<T> d) {
    if (p.activation == HiddenActivation::none) return d;
    z = activated<T>(p.norm1, j, z, false);
    if (p.activation == HiddenActivation::relu) return z <= 0 ? 0 : d;
    return d * sigmoid(z) * (1 + z * (1 - sigmoid(z)));
}

template <class A>
__device__ __forceinline__ A gate_value(const Layers& p, A z) {
    if (!p.hard) return sigmoid(z);
    z += 3;
    return div_rn(z < 0 ? A(0) : z > 6 ? A(6) : z, A(6));  // NaN stays
}

/// The gradient of what the gate g is made of; d is its own.
template <class A>
__device__ __forceinline__ A gate_gradient(const Layers& p, A g, A d) {
    return !p.hard ? d * g * (1 - g) : g > 0 && g < 1 ? div_rn(d, A(6)) : A(0);
}

}  // namespace pk::channel_gate
