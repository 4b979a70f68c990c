// Vectors of up to 16 bytes: what one thread reads or writes at once, and the same element by element.
#pragma once

#include <cstdint>

#include "common/platform.cuh"
#include "common/scalar.cuh"

namespace pk {

/// Elements of type T in 16 bytes.
template <class T>
inline constexpr int vec_size = 16 / sizeof(T);

template <class T, int N = vec_size<T>>
struct alignas(N * sizeof(T)) Vec {
    T at[N];
    PK_HD T& operator[](int i) { return at[i]; }
    PK_HD const T& operator[](int i) const { return at[i]; }
};

/// Whether vectors of `bytes` may be read at `pointer` and at every multiple of the byte `steps` from it.
template <class... Steps>
PK_HD bool is_aligned(const void* pointer, int bytes, Steps... steps) {
    return reinterpret_cast<uintptr_t>(pointer) % bytes == 0 && ((steps % bytes == 0) && ...);
}

/// N elements of g, `stride` apart; those from `count` on are `fill` and not read. `aligned`: g is, for a whole vector.
template <int N, class T>
__device__ __forceinline__ Vec<T, N> load_vec(const T* g, int count, bool aligned, long long stride, T fill) {
    if (aligned && stride == 1 && count >= N) return *reinterpret_cast<const Vec<T, N>*>(g);
    Vec<T, N> r;
#pragma unroll
    for (int i = 0; i < N; ++i) r[i] = i < count ? g[i * stride] : fill;
    return r;
}

/// r[k] = N elements from at(k) on, `stride` apart; those from count(k) on are `fill`, or whatever lies there where all
/// are read `whole`: then every at(k) is aligned and may be read. One branch for all K, or the first vector would be
/// unpacked before the next load is issued.
template <int N, int K, class T, class At, class Count>
__device__ __forceinline__ void load_vecs(Vec<T, N> (&r)[K], bool whole, long long stride, T fill, At&& at,
                                          Count&& count) {
    if (whole) {
#pragma unroll
        for (int k = 0; k < K; ++k) r[k] = *reinterpret_cast<const Vec<T, N>*>(at(k));
    } else {
#pragma unroll
        for (int k = 0; k < K; ++k) r[k] = load_vec<N>(at(k), count(k), false, stride, fill);
    }
}

/// The first `count` elements of `r` to g, `stride` apart. `aligned`: g is, for a whole vector.
template <class T, int N>
__device__ __forceinline__ void store_vec(T* g, const Vec<T, N>& r, int count, bool aligned, long long stride) {
    if (aligned && stride == 1 && count >= N) {
        *reinterpret_cast<Vec<T, N>*>(g) = r;
        return;
    }
#pragma unroll
    for (int i = 0; i < N; ++i)
        if (i < count) g[i * stride] = r[i];
}

/// The first `count` of a vector of sums, each rounded once, to g, `stride` apart; at once where g is aligned for it.
template <class T, class A>
__device__ __forceinline__ void store_rounded(T* g, const A* sums, int count, long long stride) {
    Vec<T> rounded;
#pragma unroll
    for (int i = 0; i < vec_size<T>; ++i) rounded[i] = narrow<T>(sums[i]);
    store_vec(g, rounded, count, is_aligned(g, 16), stride);
}

}  // namespace pk
