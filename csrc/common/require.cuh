// What a kernel demands of data that no host has looked at.
#pragma once

#include "common/platform.cuh"

#if defined(__CUDACC__)
/// What assert() calls on a device; declared here because NDEBUG takes assert() away.
extern "C" __device__ void __assertfail(const char* what, const char* file, unsigned line, const char* function,
                                        size_t char_size);
#endif

namespace pk {

/// Stop the grid, and name `what`, unless it holds. Later calls on the device then fail with that error.
__device__ __forceinline__ void require(bool holds, const char* what) {
    if (holds) return;
#if defined(__CUDACC__)
    __assertfail(what, __FILE__, __LINE__, __func__, sizeof(char));
#else
    hostsim::stop(what);
#endif
}

}  // namespace pk
