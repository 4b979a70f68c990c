// Norms of the channels of a map.
#pragma once

#include "bindings/tensor_ref.h"

namespace pk::bindings {

/// Of vectors (channels,) or None, in float32 or the type of `like`.
inline Norm norm_of(const TensorRef& gain, const TensorRef& bias, const TensorRef& mean, const TensorRef& var,
                    double eps, std::int64_t channels, const TensorRef& like) {
    return {vector_of("gain", gain, channels, like), vector_of("bias", bias, channels, like),
            vector_of("mean", mean, channels, like), vector_of("var", var, channels, like), eps};
}

}  // namespace pk::bindings
