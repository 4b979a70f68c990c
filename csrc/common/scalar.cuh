// Element types inside kernels: every sum runs in float, or in double for double.
#pragma once

#include "common/dispatch.h"
#include "common/platform.cuh"

namespace pk {

template <class T>
struct AccOf {
    using type = float;
};
template <>
struct AccOf<double> {
    using type = double;
};
/// What sums over elements of type T are kept in.
template <class T>
using Acc = typename AccOf<T>::type;

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ double widen(double v) { return v; }
__device__ __forceinline__ float widen(half v) { return __half2float(v); }
__device__ __forceinline__ float widen(bf16 v) { return __bfloat162float(v); }

/// An accumulator rounded once, to nearest even.
template <class T, class A>
__device__ __forceinline__ T narrow(A v) {
    if constexpr (std::is_same_v<T, half>) {
        return __float2half_rn(static_cast<float>(v));
    } else if constexpr (std::is_same_v<T, bf16>) {
        return __float2bfloat16_rn(static_cast<float>(v));
    } else {
        return static_cast<T>(v);
    }
}

/// Call `body(Type<T>{})` with the element type that `dtype` names.
template <class Body>
Status visit_dtype(Dtype dtype, Body&& body) {
    switch (dtype) {
        case Dtype::f32:
            return body(Type<float>{});
        case Dtype::f16:
            return body(Type<half>{});
        case Dtype::bf16:
            return body(Type<bf16>{});
        case Dtype::f64:
            return body(Type<double>{});
    }
    return fail("dtype must be 0 to 3, got ", static_cast<int>(dtype));
}

/// Call `body(Type<T>{}, bool_constant<channels_last>{})`.
template <class Body>
Status visit_layout(Dtype dtype, bool channels_last, Body&& body) {
    return visit_dtype(
        dtype, [&](auto type) { return visit_bool(channels_last, [&](auto last) { return body(type, last); }); });
}

/// Element i of a vector that is float or, where `is_t`, of type T: scales, shifts, norms.
template <class T>
__device__ __forceinline__ Acc<T> element(const void* g_vector, bool is_t, long long i) {
    return is_t ? widen(static_cast<const T*>(g_vector)[i])
                : static_cast<Acc<T>>(static_cast<const float*>(g_vector)[i]);
}

}  // namespace pk
