// CUDA's built-in types for the host: coordinates, vectors, and the two 16-bit floats with CUDA's own rounding.
#pragma once

#include <bit>
#include <cstdint>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    constexpr operator uint3() const { return {x, y, z}; }
};

// Aligned as on a device, so that a misaligned access shows under UBSan.
struct alignas(8) float2 {
    float x, y;
};
constexpr float2 make_float2(float x, float y) { return {x, y}; }

namespace hostsim {

constexpr float half_to_float(uint16_t bits) {
    const uint32_t sign = uint32_t{bits & 0x8000u} << 16, rest = bits & 0x7FFFu;
    if (rest >= 0x7C00) return std::bit_cast<float>(sign | 0x7F800000 | (rest & 0x3FF) << 13);
    if (rest < 0x400) return (sign ? -1.f : 1.f) * static_cast<float>(rest) * 0x1p-24f;
    return std::bit_cast<float>(sign | ((rest << 13) + 0x38000000));
}

/// To nearest even; every NaN becomes 0x7FFF, as on a device.
constexpr uint16_t float_to_half(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value), rest = bits & 0x7FFFFFFF;
    const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
    if (rest > 0x7F800000) return 0x7FFF;
    if (rest >= 0x477FF000) return sign | 0x7C00;  // 65520 and more round to infinity
    if (rest < 0x38800000)                         // subnormal: 0.5 has just the spacing of the result
        return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(std::bit_cast<float>(rest) + 0.5f) - 0x3F000000);
    return sign | static_cast<uint16_t>((rest - 0x38000000 + 0xFFF + (rest >> 13 & 1)) >> 13);
}

constexpr float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

constexpr uint16_t float_to_bf16(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return 0x7FFF;
    return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/// A double as a float that rounds further as the double itself would: towards zero, the last bit set where inexact.
constexpr float round_to_odd(double value) {
    const float nearest = static_cast<float>(value);
    if (value != value || static_cast<double>(nearest) == value) return nearest;
    const bool away = (value < 0 ? -value : value) < (nearest < 0 ? -nearest : nearest);
    return std::bit_cast<float>((std::bit_cast<uint32_t>(nearest) - away) | 1u);
}

}  // namespace hostsim

#define HOSTSIM_FLOAT16(name, from_float, to_float)                                       \
    struct name {                                                                         \
        uint16_t bits;                                                                    \
        name() = default;                                                                 \
        constexpr name(float v) : bits(hostsim::from_float(v)) {}                         \
        constexpr name(double v) : bits(hostsim::from_float(hostsim::round_to_odd(v))) {} \
        constexpr name(int v) : name(static_cast<double>(v)) {}                           \
        constexpr operator float() const { return hostsim::to_float(bits); }              \
    };
HOSTSIM_FLOAT16(__half, float_to_half, half_to_float)
HOSTSIM_FLOAT16(__nv_bfloat16, float_to_bf16, bf16_to_float)
#undef HOSTSIM_FLOAT16

constexpr float __half2float(__half v) { return v; }
constexpr float __bfloat162float(__nv_bfloat16 v) { return v; }
constexpr __half __float2half_rn(float v) { return v; }
constexpr __nv_bfloat16 __float2bfloat16_rn(float v) { return v; }
