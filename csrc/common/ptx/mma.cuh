// mma.sync (sm_80): d += a b for 16 rows of a, 8 columns of b, by the lanes of a warp. Lane l holds d[i] of row
// l / 4 + 8 (i / 2) and column 2 (l % 4) + i % 2.
#pragma once

#include "common/ptx/site.cuh"

namespace pk {

/// Half precision, 16 deep. a: (l / 4 + 8 (i % 2), 2 (l % 4) + 8 (i / 2)) and the next depth; b: (2 (l % 4) + 8 i, l /
/// 4) and the next depth.
template <class T>
__device__ __forceinline__ void mma_m16n8k16(float* d, const uint32_t* a, const uint32_t* b PK_SITE) {
#if defined(__CUDACC__)
    if constexpr (std::is_same_v<T, half>)
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    hostsim::mma_m16n8k16(std::is_same_v<T, half> ? hostsim::Element::f16 : hostsim::Element::bf16, d, a, b, site);
#endif
}

/// TF32, 8 deep. a: (l / 4 + 8 (i % 2), l % 4 + 4 (i / 2)); b: (l % 4 + 4 i, l / 4).
__device__ __forceinline__ void mma_m16n8k8_tf32(float* d, const uint32_t* a, const uint32_t* b PK_SITE) {
#if defined(__CUDACC__)
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    hostsim::mma_m16n8k8_tf32(d, a, b, site);
#endif
}

/// v in TF32: ten mantissa bits, rounded to nearest, ties away from zero.
__device__ __forceinline__ uint32_t to_tf32(float v) {
#if defined(__CUDACC__)
    uint32_t r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
    return r;
#else
    const uint32_t bits = __float_as_uint(v);
    return (bits & 0x7F800000) == 0x7F800000 ? bits : (bits + 0x1000) & ~0x1FFFu;
#endif
}

}  // namespace pk
