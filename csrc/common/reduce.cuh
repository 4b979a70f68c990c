// Reductions whose result does not depend on who joins what when: sums in fixed order, and first maxima.
#pragma once

#include "common/platform.cuh"
#include "common/vec.cuh"

namespace pk {

template <class A>
struct Sum {
    static constexpr bool has_index = false;
    A value = 0;

    /// The next element; `i`, its place, is not needed.
    __device__ __forceinline__ void take(A v, int) { value += v; }
    __device__ __forceinline__ void join(const Sum& other) { value += other.value; }
    __device__ __forceinline__ Sum across(int mask) const { return {__shfl_xor_sync(~0u, value, mask)}; }

    static __device__ __forceinline__ Sum load(const A* values, const int*, long long i) { return {values[i]}; }
    __device__ __forceinline__ void store(A* values, int*, long long i) const { values[i] = value; }
};

/// The maximum and where it is: the first place of the largest value, or the last NaN, as in PyTorch's pooling.
template <class A>
struct FirstMax {
    static constexpr bool has_index = true;
    static constexpr int nowhere = 2147483647;
    A value = -INFINITY;
    int index = nowhere;

    /// The next element in order of places.
    __device__ __forceinline__ void take(A v, int i) {
        if (v > value || v != v || index == nowhere) value = v, index = i;
    }
    __device__ __forceinline__ void join(const FirstMax& other) {
        const bool nan = value != value, other_nan = other.value != other.value;
        const bool later = nan ? other_nan && other.index > index : other_nan;
        const bool first = other.value > value || (other.value == value && other.index < index);
        if (later || (!nan && first)) *this = other;
    }
    __device__ __forceinline__ FirstMax across(int mask) const {
        return {__shfl_xor_sync(~0u, value, mask), __shfl_xor_sync(~0u, index, mask)};
    }

    static __device__ __forceinline__ FirstMax load(const A* values, const int* indices, long long i) {
        return {values[i], indices[i]};
    }
    __device__ __forceinline__ void store(A* values, int* indices, long long i) const {
        values[i] = value, indices[i] = index;
    }
};

/// Join the lanes that differ in the bits from `low` up to, not including, `high`; each of them gets the result.
template <class R>
__device__ __forceinline__ void join_lanes(R& r, int low, int high) {
    for (int mask = low; mask < high; mask *= 2) r.join(r.across(mask));
}

/// N results side by side, each array of which is aligned for it, at once.
template <class R, class A, int N>
__device__ __forceinline__ void store_results(const R (&r)[N], A* values, int* indices) {
    Vec<A, N> value;
#pragma unroll
    for (int i = 0; i < N; ++i) value[i] = r[i].value;
    *reinterpret_cast<Vec<A, N>*>(values) = value;
    if constexpr (R::has_index) {
        Vec<int, N> index;
#pragma unroll
        for (int i = 0; i < N; ++i) index[i] = r[i].index;
        *reinterpret_cast<Vec<int, N>*>(indices) = index;
    }
}

/// The block's next job, for the whole warp: jobs differ in size, so each warp takes one when it is free.
__device__ __forceinline__ int next_job(int* s_next, int lane) {
    int job = 0;
    if (lane == 0) job = atomicAdd(s_next, 1);
    return __shfl_sync(~0u, job, 0);
}

}  // namespace pk
