// ldmatrix (sm_75) and stmatrix (sm_90): four 8x8 matrices of 16-bit elements between shared memory and a warp. Lane l
// gives the address of row l % 8 of matrix l / 8 and holds elements (l / 4, 2 (l % 4)) and the next of each, or of
// their transposes.
#pragma once

#include "common/ptx/site.cuh"

namespace pk {

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* s PK_SITE) {
#if defined(__CUDACC__)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(s))
                 : "memory");
#else
    hostsim::ldmatrix(r, 4, false, shared_address(s, site), site);
#endif
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* s PK_SITE) {
#if defined(__CUDACC__)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(s))
                 : "memory");
#else
    hostsim::ldmatrix(r, 4, true, shared_address(s, site), site);
#endif
}

__device__ __forceinline__ void stmatrix_x4(void* s, const uint32_t (&r)[4] PK_SITE) {
#if defined(__CUDACC__)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(s)), "r"(r[0]),
                 "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
#else
    hostsim::stmatrix(r, 4, false, shared_address(s, site), site);
#endif
}

__device__ __forceinline__ void stmatrix_x4_trans(void* s, const uint32_t (&r)[4] PK_SITE) {
#if defined(__CUDACC__)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(s)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
#else
    hostsim::stmatrix(r, 4, true, shared_address(s, site), site);
#endif
}

}  // namespace pk
