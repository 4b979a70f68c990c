// Where device code is compiled for: nvcc, or g++ with the host simulator, which runs the same kernels on a CPU.
#pragma once

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "hostsim/hostsim.h"
#endif

#include "common/hd.h"

namespace pk {

using half = __half;
using bf16 = __nv_bfloat16;

/// The block's dynamic shared memory, of the size the launcher asked for; aligned to 16 bytes.
template <class T>
__device__ __forceinline__ T* shared_memory() {
#if defined(__CUDACC__)
    extern __shared__ __align__(16) unsigned char pk_shared[];
    return reinterpret_cast<T*>(pk_shared);
#else
    return reinterpret_cast<T*>(hostsim::dynamic_shared());
#endif
}

}  // namespace pk
