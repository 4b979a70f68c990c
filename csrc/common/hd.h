// Functions that host and device share: PK_HD, and arithmetic whose rounding no compiler may change.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define PK_HD __host__ __device__ __forceinline__
#else
#define PK_HD inline
#endif

namespace pk {

// nvcc contracts a * b + c and, with fast-math, approximates a / b; these round once, as written, on every side.
// The host is compiled with -ffp-contract=off.
#if defined(__CUDA_ARCH__)
PK_HD float mul_rn(float a, float b) { return __fmul_rn(a, b); }
PK_HD float add_rn(float a, float b) { return __fadd_rn(a, b); }
PK_HD float div_rn(float a, float b) { return __fdiv_rn(a, b); }
PK_HD float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }
PK_HD double mul_rn(double a, double b) { return __dmul_rn(a, b); }
PK_HD double add_rn(double a, double b) { return __dadd_rn(a, b); }
PK_HD double div_rn(double a, double b) { return __ddiv_rn(a, b); }
PK_HD double fma_rn(double a, double b, double c) { return __fma_rn(a, b, c); }
#else
template <class A>
PK_HD A mul_rn(A a, A b) {
    return a * b;
}
template <class A>
PK_HD A add_rn(A a, A b) {
    return a + b;
}
template <class A>
PK_HD A div_rn(A a, A b) {
    return a / b;
}
template <class A>
PK_HD A fma_rn(A a, A b, A c) {
    return std::fma(a, b, c);
}
#endif

template <class I>
PK_HD I ceil_div(I a, I b) {
    return (a + b - 1) / b;
}

/// a / b rounded towards minus infinity, for b > 0.
template <class I>
PK_HD I floor_div(I a, I b) {
    return a >= 0 ? a / b : -((b - 1 - a) / b);
}

template <class T>
PK_HD constexpr T smaller(T a, T b) {
    return b < a ? b : a;
}
template <class T>
PK_HD constexpr T larger(T a, T b) {
    return a < b ? b : a;
}

}  // namespace pk
