// wgmma (sm_90a): d += A B by a warpgroup, A 64 x 16 and B 16 x N of 16-bit elements out of shared memory, D 64 x N in
// float registers. Asynchronous: fence before the first instruction and after touching registers, commit, wait, read.
#pragma once

#include "common/ptx/site.cuh"
#include "common/tensor_map.h"

namespace pk {

/// The descriptor of an operand at s_start. K-major: `stride` bytes from one group of 8 rows to the next, `leading`
/// between k-chunks without swizzling. MN-major: `leading` bytes from one span to the next along mn and `stride` from 8
/// k to the next; without swizzling the other way round.
PK_HD uint64_t wgmma_operand(uint32_t s_start, uint32_t leading, uint32_t stride, Swizzle swizzle) {
    const uint64_t mode = swizzle == Swizzle::b128 ? 1 : swizzle == Swizzle::b64 ? 2 : swizzle == Swizzle::b32 ? 3 : 0;
    const auto encoded = [](uint32_t bytes) { return static_cast<uint64_t>((bytes & 0x3FFFF) >> 4); };
    return encoded(s_start) | encoded(leading) << 16 | encoded(stride) << 32 | mode << 62;
}

__device__ __forceinline__ void wgmma_fence(PK_ONLY_SITE) {
#if defined(__CUDACC__)
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
    hostsim::wgmma_fence(site);
#endif
}

__device__ __forceinline__ void wgmma_commit(PK_ONLY_SITE) {
#if defined(__CUDACC__)
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
    hostsim::wgmma_commit(site);
#endif
}

/// Wait until at most `Groups` of the newest groups are in flight.
template <int Groups>
__device__ __forceinline__ void wgmma_wait(PK_ONLY_SITE) {
#if defined(__CUDACC__)
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Groups) : "memory");
#else
    hostsim::wgmma_wait(Groups, site);
#endif
}

#if defined(__CUDACC__)

// Operands %0, %1, ... and the registers bound to them, in tens.
#define PK_NAMES(t) "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9"
#define PK_BIND2(i) "+f"(d[i]), "+f"(d[i + 1])
#define PK_BIND8(i) PK_BIND2(i), PK_BIND2(i + 2), PK_BIND2(i + 4), PK_BIND2(i + 6)
#define PK_BIND32(i) PK_BIND8(i), PK_BIND8(i + 8), PK_BIND8(i + 16), PK_BIND8(i + 24)
#define PK_WGMMA(n, type, accumulators, a, b, p, ta, tb, ...)                                                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p ", 0;\nwgmma.mma_async.sync.aligned.m64n" n "k16.f32." type \
                 "." type " {" accumulators "}, " a ", " b ", p, 1, 1, " ta ", " tb ";\n}"                         \
                 : __VA_ARGS__                                                                                     \
                 : "l"(a_operand), "l"(b_operand), "r"(accumulate), "n"(AMajor), "n"(BMajor))

template <int N, bool Bf16, int AMajor, int BMajor>
__device__ __forceinline__ void wgmma_ptx(float (&d)[N / 2], uint64_t a_operand, uint64_t b_operand, int accumulate) {
    if constexpr (N == 64) {
        if constexpr (Bf16)
            PK_WGMMA("64", "bf16", PK_NAMES() "," PK_NAMES(1) "," PK_NAMES(2) ",%30,%31", "%32", "%33", "%34", "%35",
                     "%36", PK_BIND32(0));
        if constexpr (!Bf16)
            PK_WGMMA("64", "f16", PK_NAMES() "," PK_NAMES(1) "," PK_NAMES(2) ",%30,%31", "%32", "%33", "%34", "%35",
                     "%36", PK_BIND32(0));
    }
    if constexpr (N == 128) {
        if constexpr (Bf16)
            PK_WGMMA("128", "bf16",
                     PK_NAMES() "," PK_NAMES(1) "," PK_NAMES(2) "," PK_NAMES(3) "," PK_NAMES(4) "," PK_NAMES(
                         5) ",%60,%61,%62,%63",
                     "%64", "%65", "%66", "%67", "%68", PK_BIND32(0), PK_BIND32(32));
        if constexpr (!Bf16)
            PK_WGMMA("128", "f16",
                     PK_NAMES() "," PK_NAMES(1) "," PK_NAMES(2) "," PK_NAMES(3) "," PK_NAMES(4) "," PK_NAMES(
                         5) ",%60,%61,%62,%63",
                     "%64", "%65", "%66", "%67", "%68", PK_BIND32(0), PK_BIND32(32));
    }
    if constexpr (N == 192) {
        if constexpr (Bf16)
            PK_WGMMA("192", "bf16",
                     PK_NAMES() "," PK_NAMES(1) "," PK_NAMES(2) "," PK_NAMES(3) "," PK_NAMES(4) "," PK_NAMES(
                         5) "," PK_NAMES(6) "," PK_NAMES(7) "," PK_NAMES(8) ",%90,%91,%92,%93,%94,%95",
                     "%96", "%97", "%98", "%99", "%100", PK_BIND32(0), PK_BIND32(32), PK_BIND32(64));
        if constexpr (!Bf16)
            PK_WGMMA("192", "f16",
                     PK_NAMES() "," PK_NAMES(1) "," PK_NAMES(2) "," PK_NAMES(3) "," PK_NAMES(4) "," PK_NAMES(
                         5) "," PK_NAMES(6) "," PK_NAMES(7) "," PK_NAMES(8) ",%90,%91,%92,%93,%94,%95",
                     "%96", "%97", "%98", "%99", "%100", PK_BIND32(0), PK_BIND32(32), PK_BIND32(64));
    }
    if constexpr (N == 256) {
        if constexpr (Bf16)
            PK_WGMMA("256", "bf16", PK_NAMES() "," PK_NAMES(1) "," PK_NAMES(2) "," PK_NAMES(3) "," PK_NAMES(4) "," PK_NAMES(5) "," PK_NAMES(6) "," PK_NAMES(7) "," PK_NAMES(8) "," PK_NAMES(9) "," PK_NAMES(10) "," PK_NAMES(11) ",%120,%121,%122,%123,%124,%125,%126,%127", "%128", "%129", "%130", "%131", "%132", PK_BIND32(0), PK_BIND32(32), PK_BIND32(64), PK_BIND32(96));
        if constexpr (!Bf16)
            PK_WGMMA("256", "f16", PK_NAMES() "," PK_NAMES(1) "," PK_NAMES(2) "," PK_NAMES(3) "," PK_NAMES(4) "," PK_NAMES(5) "," PK_NAMES(6) "," PK_NAMES(7) "," PK_NAMES(8) "," PK_NAMES(9) "," PK_NAMES(10) "," PK_NAMES(11) ",%120,%121,%122,%123,%124,%125,%126,%127", "%128", "%129", "%130", "%131", "%132", PK_BIND32(0), PK_BIND32(32), PK_BIND32(64), PK_BIND32(96));
    }
}

#undef PK_NAMES
#undef PK_BIND2
#undef PK_BIND8
#undef PK_BIND32
#undef PK_WGMMA

#endif

/// D = A B + (accumulate ? D : 0). T is half or bf16; an operand is K-major unless said.
template <int N, class T, bool AIsMMajor = false, bool BIsNMajor = false>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], uint64_t a_operand, uint64_t b_operand,
                                      bool accumulate PK_SITE) {
    static_assert(N == 64 || N == 128 || N == 192 || N == 256);
    constexpr bool is_bf16 = std::is_same_v<T, bf16>;
    static_assert(is_bf16 || std::is_same_v<T, half>);
#if defined(__CUDACC__)
    wgmma_ptx<N, is_bf16, AIsMMajor, BIsNMajor>(d, a_operand, b_operand, accumulate);
#else
    const auto element = is_bf16 ? hostsim::Element::bf16 : hostsim::Element::f16;
    hostsim::wgmma({element, N, AIsMMajor, BIsNMajor, a_operand, b_operand}, d, accumulate, site);
#endif
}

}  // namespace pk
