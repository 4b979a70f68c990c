// CUDA's device functions that need no other thread: arithmetic, bits, cached loads, atomics.
#pragma once

#include <math.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __frcp_rn(float a) { return 1 / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float a) { return exp2f(a * 1.44269504f); }  // as the hardware does it
inline float __exp2f(float a) { return exp2f(a); }
inline float __logf(float a) { return logf(a); }
inline float __log2f(float a) { return log2f(a); }
inline float rsqrtf(float a) { return 1 / sqrtf(a); }
inline double rsqrt(double a) { return 1 / sqrt(a); }

inline int __float2int_rn(float a) { return static_cast<int>(nearbyintf(a)); }
inline int __float2int_rd(float a) { return static_cast<int>(floorf(a)); }
inline int __float2int_rz(float a) { return static_cast<int>(a); }
inline int __double2int_rd(double a) { return static_cast<int>(floor(a)); }
inline float __int2float_rn(int a) { return static_cast<float>(a); }
inline double __int2double_rn(int a) { return a; }

constexpr int __float_as_int(float a) { return std::bit_cast<int>(a); }
constexpr unsigned __float_as_uint(float a) { return std::bit_cast<unsigned>(a); }
constexpr float __int_as_float(int a) { return std::bit_cast<float>(a); }
constexpr float __uint_as_float(unsigned a) { return std::bit_cast<float>(a); }
constexpr long long __double_as_longlong(double a) { return std::bit_cast<long long>(a); }
constexpr double __longlong_as_double(long long a) { return std::bit_cast<double>(a); }

constexpr int __popc(unsigned a) { return std::popcount(a); }
constexpr int __popcll(unsigned long long a) { return std::popcount(a); }
constexpr int __clz(int a) { return std::countl_zero(static_cast<unsigned>(a)); }
constexpr int __ffs(int a) { return a ? std::countr_zero(static_cast<unsigned>(a)) + 1 : 0; }
constexpr unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
constexpr int __mulhi(int a, int b) { return static_cast<int>(int64_t{a} * b >> 32); }
constexpr unsigned __umul24(unsigned a, unsigned b) { return (a & 0xFFFFFF) * (b & 0xFFFFFF); }

constexpr int min(int a, int b) { return std::min(a, b); }
constexpr int max(int a, int b) { return std::max(a, b); }
constexpr unsigned min(unsigned a, unsigned b) { return std::min(a, b); }
constexpr unsigned max(unsigned a, unsigned b) { return std::max(a, b); }
constexpr long min(long a, long b) { return std::min(a, b); }
constexpr long max(long a, long b) { return std::max(a, b); }
constexpr unsigned long min(unsigned long a, unsigned long b) { return std::min(a, b); }
constexpr unsigned long max(unsigned long a, unsigned long b) { return std::max(a, b); }
constexpr long long min(long long a, long long b) { return std::min(a, b); }
constexpr long long max(long long a, long long b) { return std::max(a, b); }
constexpr unsigned long long min(unsigned long long a, unsigned long long b) { return std::min(a, b); }
constexpr unsigned long long max(unsigned long long a, unsigned long long b) { return std::max(a, b); }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

template <class T>
inline T __ldg(const T* p) {
    return *p;
}
template <class T>
inline T __ldcg(const T* p) {
    return *p;
}
template <class T>
inline T __ldcs(const T* p) {
    return *p;
}
template <class T>
inline void __stcg(T* p, T v) {
    *p = v;
}
template <class T>
inline void __stcs(T* p, T v) {
    *p = v;
}

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) {}

// One fiber runs at a time and leaves only where it waits: a plain read, change and write is atomic. Out of line and
// unseen by the race build, which would take them for ordinary accesses.
#define HOSTSIM_ATOMIC \
    template <class T> \
    __attribute__((noinline, no_sanitize("thread")))
HOSTSIM_ATOMIC T atomicAdd(T* p, std::type_identity_t<T> v) {
    const T old = *p;
    *p = old + v;
    return old;
}
HOSTSIM_ATOMIC T atomicSub(T* p, std::type_identity_t<T> v) {
    const T old = *p;
    *p = old - v;
    return old;
}
HOSTSIM_ATOMIC T atomicMax(T* p, std::type_identity_t<T> v) {
    const T old = *p;
    *p = std::max(old, v);
    return old;
}
HOSTSIM_ATOMIC T atomicMin(T* p, std::type_identity_t<T> v) {
    const T old = *p;
    *p = std::min(old, v);
    return old;
}
HOSTSIM_ATOMIC T atomicAnd(T* p, std::type_identity_t<T> v) {
    const T old = *p;
    *p = old & v;
    return old;
}
HOSTSIM_ATOMIC T atomicOr(T* p, std::type_identity_t<T> v) {
    const T old = *p;
    *p = old | v;
    return old;
}
HOSTSIM_ATOMIC T atomicExch(T* p, std::type_identity_t<T> v) {
    const T old = *p;
    *p = v;
    return old;
}
HOSTSIM_ATOMIC T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
    const T old = *p;
    if (old == expected) *p = v;
    return old;
}
/// Counts up to `last`, then from 0 again.
HOSTSIM_ATOMIC T atomicInc(T* p, std::type_identity_t<T> last) {
    const T old = *p;
    *p = old >= last ? 0 : old + 1;
    return old;
}
#undef HOSTSIM_ATOMIC
