#include "hostsim/tensor_core.h"

#include <bit>

#include "hostsim/types.h"

namespace hostsim {

namespace {

uint16_t half_of(const uint32_t* registers, int i) { return static_cast<uint16_t>(registers[i / 2] >> i % 2 * 16); }

float widen(uint16_t bits, Element element) {
    return element == Element::f16 ? half_to_float(bits) : bf16_to_float(bits);
}

/// tf32 is a float whose last 13 bits do not count.
float as_tf32(uint32_t bits) { return std::bit_cast<float>(bits & 0xFFFFE000); }

}  // namespace

void mma_m16n8k16(Element element, float (*d)[4], const uint32_t (*a)[4], const uint32_t (*b)[2]) {
    float as[16][16], bs[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 8; ++i) {
            const At at = mma_a16(lane, i);
            as[at.row][at.column] = widen(half_of(a[lane], i), element);
        }
        for (int i = 0; i < 4; ++i) {
            const At at = mma_b16(lane, i);
            bs[at.row][at.column] = widen(half_of(b[lane], i), element);
        }
    }
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i) {
            const At at = mma_c(lane, i);
            for (int k = 0; k < 16; ++k) d[lane][i] += as[at.row][k] * bs[k][at.column];
        }
}

void mma_m16n8k8_tf32(float (*d)[4], const uint32_t (*a)[4], const uint32_t (*b)[2]) {
    float as[16][8], bs[8][8];
    for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 4; ++i) as[mma_a_tf32(lane, i).row][mma_a_tf32(lane, i).column] = as_tf32(a[lane][i]);
        for (int i = 0; i < 2; ++i) bs[mma_b_tf32(lane, i).row][mma_b_tf32(lane, i).column] = as_tf32(b[lane][i]);
    }
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i) {
            const At at = mma_c(lane, i);
            for (int k = 0; k < 8; ++k) d[lane][i] += as[at.row][k] * bs[k][at.column];
        }
}

void ldmatrix(const unsigned char* const* rows, int count, bool transposed, uint32_t (*r)[4]) {
    for (int m = 0; m < count; ++m) {
        uint16_t matrix[8][8];
        for (int i = 0; i < 8; ++i) std::memcpy(matrix[i], rows[8 * m + i], 16);
        for (int lane = 0; lane < 32; ++lane) {
            const int i = lane / 4, j = lane % 4 * 2;
            const uint16_t low = transposed ? matrix[j][i] : matrix[i][j];
            const uint16_t high = transposed ? matrix[j + 1][i] : matrix[i][j + 1];
            r[lane][m] = low | uint32_t{high} << 16;
        }
    }
}

void stmatrix(unsigned char* const* rows, int count, bool transposed, const uint32_t (*r)[4]) {
    for (int m = 0; m < count; ++m) {
        uint16_t matrix[8][8];
        for (int lane = 0; lane < 32; ++lane)
            for (int half = 0; half < 2; ++half) {
                const int i = lane / 4, j = lane % 4 * 2 + half;
                (transposed ? matrix[j][i] : matrix[i][j]) = static_cast<uint16_t>(r[lane][m] >> half * 16);
            }
        for (int i = 0; i < 8; ++i) std::memcpy(rows[8 * m + i], matrix[i], 16);
    }
}

void wgmma_m64k16(const Wgmma& instruction, const unsigned char* window, bool accumulate, float* d) {
    const int n = instruction.n;
    static float as[64][16], bs[16][256];
    const auto gather = [&](uint64_t bits, bool mn_major, int size, auto&& place) {
        const Operand operand = decode_operand(bits);
        uint16_t chunk[8];
        for (int mn = 0; mn < size; mn += mn_major ? 8 : 1)
            for (int k = 0; k < 16; k += mn_major ? 1 : 8) {
                std::memcpy(chunk, window + (chunk_address(operand, mn_major, mn, k) & 0x3FFFF), 16);
                for (int i = 0; i < 8; ++i)
                    place(mn + (mn_major ? i : 0), k + (mn_major ? 0 : i)) = widen(chunk[i], instruction.element);
            }
    };
    gather(instruction.a, instruction.a_m_major, 64, [](int m, int k) -> float& { return as[m][k]; });
    gather(instruction.b, instruction.b_n_major, n, [](int m, int k) -> float& { return bs[k][m]; });
    for (int row = 0; row < 64; ++row) {
        float* out = d + row * n;
        if (!accumulate) std::memset(out, 0, n * sizeof(float));
        for (int k = 0; k < 16; ++k) {
            const float factor = as[row][k];
            for (int column = 0; column < n; ++column) out[column] += factor * bs[k][column];
        }
    }
}

}  // namespace hostsim
