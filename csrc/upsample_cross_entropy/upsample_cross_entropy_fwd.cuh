// Loss: a thread owns one output column of some rows and walks through all classes, a few at a time, with a running
// maximum and sum per row. Bound by exponentials, one per class and pixel, and the arithmetic around them.
//
// upsample_cross_entropy_fwd_kernel
// grid:   x images x row tiles x column tiles
// block:  a thread per column
// shared: two sums per thread
//
// upsample_cross_entropy_sums_kernel
// grid:   one block, which adds the blocks' sums in fixed order
// shared: two sums per thread
#pragma once

#include "common/block_sum.cuh"
#include "common/require.cuh"
#include "upsample_cross_entropy/pixel.cuh"

namespace pk::upsample_cross_entropy {

inline constexpr int sums_threads = 1024;

/// The softmax of one pixel so far.
template <class A>
struct Running {
    A top = A(-INFINITY), total = 0;
    A picked = 0;  // the label's own logit
    A mean = 0;    // of all classes by weight, times their number

    /// What exponents are taken from: minus infinity alone must give a sum of 0, not NaN.
    __device__ __forceinline__ A base() const { return top == A(-INFINITY) ? A(0) : top; }
    __device__ __forceinline__ A lse() const { return base() + log(total); }

    template <int K>
    __device__ __forceinline__ void take(const A (&v)[K]) {
        A most = v[0];
#pragma unroll
        for (int k = 1; k < K; ++k) most = larger(most, v[k]);
        const A before = top;
        top = larger(top, most);
        const A from = base();
        total *= exponential(before - from);
#pragma unroll
        for (int k = 0; k < K; ++k) total += exponential(v[k] - from);
    }
};

template <class A>
__device__ __forceinline__ A loss_of(const Loss<A>& p, const Running<A>& r, const Pixel<A>& pixel, A lse, A whole) {
    if (!pixel.live) return A(0);
    A loss = p.hit * pixel.share * (lse - r.picked);
    if (p.smooth > A(0)) loss += p.smooth * (whole * lse - r.mean);
    return loss;
}

template <class T>
__global__ void __launch_bounds__(column_threads, sizeof(T) == 8 ? 2 : 3)
    upsample_cross_entropy_fwd_kernel(const __grid_constant__ Loss<Acc<T>> p, Acc<T>* g_y, Acc<T>* g_lse,
                                      Acc<T>* g_part) {
    using A = Acc<T>;
    constexpr int R = rows_deep<T>, K = classes_at_once;
    __shared__ A s_part[2 * column_threads];
    const Place at = place_of<T>(p.logits);
    const int rows = at.x < p.logits.x.full ? smaller(R, p.logits.y.full - at.y) : 0;
    const long long pixel = (static_cast<long long>(at.n) * p.logits.y.full + at.y) * p.logits.x.full + at.x;
    int labels[R];  // -1 where ignored; what else there is to know of a pixel is read again at the end
    Running<A> running[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
        if (r >= rows) break;
        const Pixel<A> own = pixel_at(p, pixel + static_cast<long long>(r) * p.logits.x.full);
        require(!own.live || (0 <= own.label && own.label < p.logits.c),
                "upsample_cross_entropy: every label of target is a class of logits or ignore_index");
        labels[r] = own.live ? static_cast<int>(own.label) : -1;
    }
    if (rows > 0)
        each_class<T>(p.logits, at, [&](int r, int first, const A(&v)[K]) {
#pragma unroll
            for (int k = 0; k < K; ++k)
                if (first + k == labels[r]) running[r].picked = v[k];
            if (p.smooth > A(0))
#pragma unroll
                for (int k = 0; k < K; ++k)
                    if (first + k < p.logits.c)
                        running[r].mean += (p.weight != nullptr ? p.weight[first + k] : A(1)) * v[k];
            running[r].take(v);
        });
    const A all = p.smooth > A(0) ? whole(p) : A(0);
    A sums[2] = {};
#pragma unroll
    for (int r = 0; r < R; ++r) {
        if (r >= rows) break;
        const long long i = pixel + static_cast<long long>(r) * p.logits.x.full;
        const Pixel<A> own = pixel_at(p, i);
        const A lse = running[r].lse(), loss = loss_of(p, running[r], own, lse, all);
        g_lse[i] = lse;
        if (g_y != nullptr) g_y[i] = loss;
        sums[0] += loss, sums[1] += own.share;
    }
    if (g_part == nullptr) return;
    sum_strided(sums, s_part, 1);
    if (threadIdx.x > 0) return;
    g_part[blockIdx.x] = sums[0], g_part[gridDim.x + blockIdx.x] = sums[1];
}

/// part (2, parts) -> y (), factor (1,).
template <class A>
__global__ void __launch_bounds__(sums_threads)
    upsample_cross_entropy_sums_kernel(const A* g_part, A* g_y, A* g_factor, int parts, bool mean) {
    __shared__ A s_part[2 * sums_threads];
    A sums[2] = {};
    for (int i = threadIdx.x; i < parts; i += sums_threads) sums[0] += g_part[i], sums[1] += g_part[parts + i];
    sum_strided(sums, s_part, 1);
    if (threadIdx.x > 0) return;
    *g_y = mean ? div_rn(sums[0], sums[1]) : sums[0];
    *g_factor = mean ? div_rn(A(1), sums[1]) : A(1);
}

}  // namespace pk::upsample_cross_entropy
