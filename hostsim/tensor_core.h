// What the matrix instructions compute, on plain arrays. Sums run in float in the order of k; hardware's order differs,
// so only exact data (small integers) compares bitwise.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "hostsim/layout.h"

namespace hostsim {

enum class Element { f16, bf16 };

/// d = a b + d over the 32 lanes' registers; d (32, 4), a (32, 4), b (32, 2).
void mma_m16n8k16(Element element, float (*d)[4], const uint32_t (*a)[4], const uint32_t (*b)[2]);
void mma_m16n8k8_tf32(float (*d)[4], const uint32_t (*a)[4], const uint32_t (*b)[2]);

/// `count` 8 x 8 matrices of 16-bit elements; rows[8 m + i] is row i of matrix m; r (32, 4).
void ldmatrix(const unsigned char* const* rows, int count, bool transposed, uint32_t (*r)[4]);
void stmatrix(unsigned char* const* rows, int count, bool transposed, const uint32_t (*r)[4]);

struct Wgmma {
    Element element;
    int n;
    bool a_m_major, b_n_major;
    uint64_t a, b;  // descriptors
};

/// d (64, n) = A B + (accumulate ? d : 0), operands out of a block's shared memory, whose address 0 is `window`.
void wgmma_m64k16(const Wgmma& instruction, const unsigned char* window, bool accumulate, float* d);

}  // namespace hostsim
