// max.NaN (sm_80): the larger value, NaN where either is one; +0 is larger than -0.
#pragma once

#include "common/scalar.cuh"
#include "common/vec.cuh"

namespace pk {

/// As the instruction compares, for types that have none, and on the host.
template <class T>
__device__ __forceinline__ T compared_max_nan(T a, T b) {
    const Acc<T> first = widen(a), second = widen(b);
    if (first != first || second != second) return narrow<T>(Acc<T>(__uint_as_float(0x7FFFFFFF)));
    return second > first || (second == first && std::signbit(first)) ? b : a;
}

/// Element by element; two of 16 bits at once.
template <class T, int N>
__device__ __forceinline__ Vec<T, N> max_nan(const Vec<T, N>& a, const Vec<T, N>& b) {
    Vec<T, N> r;
#if defined(__CUDACC__)
    if constexpr (sizeof(T) == 2) {
        static_assert(N % 2 == 0);
        struct Words {
            unsigned at[N / 2];
        };
        const Words first = __builtin_bit_cast(Words, a), second = __builtin_bit_cast(Words, b);
        Words larger;
#pragma unroll
        for (int i = 0; i < N / 2; ++i) {
            if constexpr (std::is_same_v<T, half>) {
                asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(larger.at[i]) : "r"(first.at[i]), "r"(second.at[i]));
            } else {
                asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(larger.at[i]) : "r"(first.at[i]), "r"(second.at[i]));
            }
        }
        r = __builtin_bit_cast(decltype(r), larger);
    } else if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < N; ++i) asm("max.NaN.f32 %0, %1, %2;" : "=f"(r[i]) : "f"(a[i]), "f"(b[i]));
    } else
#endif
    {
#pragma unroll
        for (int i = 0; i < N; ++i) r[i] = compared_max_nan(a[i], b[i]);
    }
    return r;
}

}  // namespace pk
