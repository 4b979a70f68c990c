// ex2.approx: 2 to the power of v in one instruction, within two roundings; results below 2^-126 are zero.
#pragma once

#include <cmath>

#include "common/platform.cuh"

namespace pk {

__device__ __forceinline__ float exp2_approx(float v) {
#if defined(__CUDACC__)
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
#else
    const float r = std::exp2(v);
    return r < 0x1p-126f ? 0.f : r;  // NaN stays
#endif
}

}  // namespace pk
