// A wrapper's last parameter on the host: the kernel's line, for reports.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/platform.cuh"

#if defined(__CUDACC__)
#define PK_SITE
#define PK_ONLY_SITE
#else
#include "hostsim/ptx.h"
#define PK_ONLY_SITE hostsim::Site site = hostsim::Site::current()
#define PK_SITE , PK_ONLY_SITE
#endif

namespace pk {

/// Address in the block's shared memory, as PTX instructions take it.
__device__ __forceinline__ uint32_t shared_address(const void* s_pointer PK_SITE) {
#if defined(__CUDACC__)
    return static_cast<uint32_t>(__cvta_generic_to_shared(s_pointer));
#else
    return hostsim::shared_address(s_pointer, site);
#endif
}

}  // namespace pk
