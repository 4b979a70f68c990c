// Where tensor-core operands lie, as pure functions of lane and register: the PTX ISA's tables in executable form. Free
// of the simulator, so that tests and the conformance program call them alone.
#pragma once

#include <cstdint>

namespace hostsim {

struct At {
    int row, column;
};

// 9.7.14.5.8 "mma.m16n8k16", 16-bit elements: element i of A, of B (16 x 8), of C and D.
constexpr At mma_a16(int lane, int i) { return {lane / 4 + (i / 2 % 2) * 8, lane % 4 * 2 + i % 2 + i / 4 * 8}; }
constexpr At mma_b16(int lane, int i) { return {lane % 4 * 2 + i % 2 + i / 2 * 8, lane / 4}; }
constexpr At mma_c(int lane, int i) { return {lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2}; }

// "mma.m16n8k8", tf32: element i of A and of B (8 x 8); C and D as above.
constexpr At mma_a_tf32(int lane, int i) { return {lane / 4 + i % 2 * 8, lane % 4 + i / 2 * 4}; }
constexpr At mma_b_tf32(int lane, int i) { return {lane % 4 + i * 4, lane / 4}; }

/// "wgmma": element i of the 64 x N accumulators of a warpgroup's thread.
constexpr At wgmma_d(int thread, int i) {
    const int lane = thread % 32;
    return {thread / 32 * 16 + lane / 4 + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2};
}

/// The address that swizzling over `span` bytes (16: none, 32, 64, 128) gives an address of shared memory.
constexpr uint32_t swizzled(uint32_t address, int span) {
    return address ^ (address >> 7 & static_cast<uint32_t>(span / 16 - 1)) << 4;
}

/// A shared-memory operand of wgmma, as its descriptor's bits say.
struct Operand {
    uint32_t start, leading, stride;  // bytes
    int base_offset, span;
};

constexpr Operand decode_operand(uint64_t bits) {
    constexpr int spans[] = {16, 128, 64, 32};
    const auto bytes = [&](int first) { return static_cast<uint32_t>(bits >> first & 0x3FFF) << 4; };
    return {bytes(0), bytes(16), bytes(32), static_cast<int>(bits >> 49 & 7), spans[bits >> 62]};
}

/// Address of the 16-byte chunk that holds 16-bit element (mn, k); `mn_major`: eight of a chunk run along mn, not k.
constexpr uint32_t chunk_address(const Operand& at, bool mn_major, int mn, int k) {
    const auto m = static_cast<uint32_t>(mn), c = static_cast<uint32_t>(k), span = static_cast<uint32_t>(at.span);
    if (!mn_major) {
        const uint32_t row = at.start + m / 8 * at.stride + m % 8 * span;
        return at.span == 16 ? row + c / 8 * at.leading : swizzled(row + c / 8 * 16, at.span);
    }
    if (at.span == 16) return at.start + m / 8 * at.stride + c % 8 * 16 + c / 8 * at.leading;
    const uint32_t chunk = m / 8 % (span / 16), group = m / 8 / (span / 16);
    return swizzled(at.start + chunk * 16 + group * at.leading + c % 8 * span + c / 8 * at.stride, at.span);
}

}  // namespace hostsim
