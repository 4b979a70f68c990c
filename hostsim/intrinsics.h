// CUDA's device functions that need no other thread: arithmetic, bits, cached loads, atomics.
#pragma once

#include <math.h>

#include <bit>
#include <cstdint>
#include <type_traits>

#include "hostsim/profile.h"

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __expf(float a) { return exp2f(a * 1.44269504f); }  // as the hardware does it

constexpr unsigned __float_as_uint(float a) { return std::bit_cast<unsigned>(a); }
constexpr float __uint_as_float(unsigned a) { return std::bit_cast<float>(a); }

template <class T>
inline T __ldcg(const T* p) {
    return *p;
}

inline void __threadfence() {}
inline void __nanosleep(unsigned) {}

// One fiber runs at a time and leaves only where it waits: a plain read, change and write is atomic. Out of line and
// unseen by the instrumented builds, which would take them for ordinary accesses.
template <class T>
__attribute__((noinline, no_sanitize("thread"), no_sanitize_coverage)) T atomicAdd(T* p, std::type_identity_t<T> v) {
    if (hostsim::profiler)
        hostsim::profiler->access(p, sizeof(T), hostsim::Access::atomic, __builtin_return_address(0));
    const T old = *p;
    *p = old + v;
    return old;
}
