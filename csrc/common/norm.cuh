// The norm of one channel, read as the module keeps it: no folding launches.
#pragma once

#include "common/norm.h"
#include "common/scalar.cuh"

namespace pk {

template <class T>
__device__ __forceinline__ Acc<T> vector_or(const ChannelVector& vector, int o, Acc<T> otherwise) {
    return vector.at ? element<T>(vector.at, vector.is_t, o) : otherwise;
}

/// 1 / sqrt(var + eps), or one where there is no norm; each step rounded once.
template <class T>
__device__ __forceinline__ Acc<T> inverse_deviation(const Norm& norm, int o) {
    if (!norm.var.at) return 1;
    const Acc<T> var = element<T>(norm.var.at, norm.var.is_t, o);
    return div_rn(Acc<T>(1), sqrt(add_rn(var, static_cast<Acc<T>>(norm.eps))));
}

/// Norm or affine, then ReLU, of channel o; NaN stays.
template <class T>
__device__ __forceinline__ Acc<T> activated(const Norm& norm, int o, Acc<T> z, bool relu) {
    z = (z - vector_or<T>(norm.mean, o, 0)) * inverse_deviation<T>(norm, o);
    z = z * vector_or<T>(norm.gain, o, 1) + vector_or<T>(norm.bias, o, 0);
    return relu && z < 0 ? 0 : z;
}

}  // namespace pk
