// The layouts that the simulator uses against tables typed from the PTX ISA manual (release 9.2; section per table), in
// the form of its figures: which thread and which register holds each cell. No formula of the simulator is used twice.
#include "common/ptx/wgmma.cuh"
#include "hostsim/layout.h"
#include "hostsim/tensor_core.h"
#include "hostsim/tensor_map.h"
#include "hostsim/tests/check.h"

using namespace pk;
using namespace pk::test;

namespace {

// The thread of each pair of cells of an 8 x 8 tile, as every figure of 9.7.14.5 draws it for A, C and D.
constexpr int threads_by_rows[8][4] = {{0, 1, 2, 3},     {4, 5, 6, 7},     {8, 9, 10, 11},   {12, 13, 14, 15},
                                       {16, 17, 18, 19}, {20, 21, 22, 23}, {24, 25, 26, 27}, {28, 29, 30, 31}};

// 9.7.14.5.8, figures of A (.f16/.bf16), B and C/D: the first register of each 8 x 8 tile; the second cell of a pair is
// the next one. B's figure has rows and columns exchanged.
constexpr int a_of_tile[2][2] = {{0, 4}, {2, 6}}, b_of_tile[2] = {0, 2}, c_of_tile[2] = {0, 2};

void check_m16n8k16() {
    for (int row = 0; row < 8; ++row)
        for (int pair = 0; pair < 4; ++pair)
            for (int half = 0; half < 2; ++half) {
                const int thread = threads_by_rows[row][pair], column = 2 * pair + half;
                for (int down = 0; down < 2; ++down)
                    for (int right = 0; right < 2; ++right) {
                        const hostsim::At at = hostsim::mma_a16(thread, a_of_tile[down][right] + half);
                        CHECK(at.row == 8 * down + row && at.column == 8 * right + column, "A, thread ", thread);
                    }
                for (int tile = 0; tile < 2; ++tile) {
                    const hostsim::At b = hostsim::mma_b16(thread, b_of_tile[tile] + half);
                    CHECK(b.row == 8 * tile + column && b.column == row, "B, thread ", thread);
                    const hostsim::At c = hostsim::mma_c(thread, c_of_tile[tile] + half);
                    CHECK(c.row == 8 * tile + row && c.column == column, "C, thread ", thread);
                }
            }
}

// 9.7.14.5.7, figures of A and B (.tf32): one cell per thread; tiles of 8 x 4 of A in the order a0, a1 below, a2 right,
// a3; of B 4 x 8: b0, b1 below.
void check_m16n8k8_tf32() {
    constexpr int a_of_part[2][2] = {{0, 2}, {1, 3}};
    for (int row = 0; row < 8; ++row)
        for (int column = 0; column < 4; ++column) {
            const int thread = threads_by_rows[row][column];
            for (int down = 0; down < 2; ++down)
                for (int right = 0; right < 2; ++right) {
                    const hostsim::At a = hostsim::mma_a_tf32(thread, a_of_part[down][right]);
                    CHECK(a.row == 8 * down + row && a.column == 4 * right + column, "A tf32, thread ", thread);
                }
            for (int part = 0; part < 2; ++part) {
                const hostsim::At b = hostsim::mma_b_tf32(thread, part);
                CHECK(b.row == 4 * part + column && b.column == row, "B tf32, thread ", thread);
            }
        }
}

// 9.7.15.5.1.1, figure of D of wgmma.mma_async.m64nNk16: rows 0-15 are threads 0-31, rows 16-31 threads 32-63, and so
// on; within 16 rows and 8 columns d0 d1 above, d2 d3 eight rows below; the next 8 columns four registers on.
void check_wgmma_d() {
    constexpr int first_thread[4] = {0, 32, 64, 96};
    for (int warp = 0; warp < 4; ++warp)
        for (int row = 0; row < 8; ++row)
            for (int pair = 0; pair < 4; ++pair)
                for (int tile = 0; tile < 32; ++tile)
                    for (int i = 0; i < 4; ++i) {
                        const int thread = first_thread[warp] + threads_by_rows[row][pair];
                        const hostsim::At at = hostsim::wgmma_d(thread, 4 * tile + i);
                        CHECK(at.row == 16 * warp + row + (i >= 2 ? 8 : 0) &&
                                  at.column == 8 * tile + 2 * pair + (i == 1 || i == 3),
                              "D, thread ", thread, " register ", 4 * tile + i);
                    }
}

// 9.7.14.5.15 (ldmatrix), figure of .m8n8 .b16: thread 0 holds elements 0 and 1 of row 0, thread 1 elements 2 and 3;
// matrices in the order of the address groups 0-7, 8-15, 16-23, 24-31.
void check_ldmatrix() {
    uint16_t matrices[4][8][8];
    const unsigned char* rows[32];
    for (int m = 0; m < 4; ++m)
        for (int row = 0; row < 8; ++row) {
            for (int column = 0; column < 8; ++column)
                matrices[m][row][column] = static_cast<uint16_t>(1000 * m + 10 * row + column);
            rows[8 * m + row] = reinterpret_cast<const unsigned char*>(matrices[m][row]);
        }
    uint32_t plain[32][4], transposed[32][4];
    hostsim::ldmatrix(rows, 4, false, plain);
    hostsim::ldmatrix(rows, 4, true, transposed);
    for (int row = 0; row < 8; ++row)
        for (int pair = 0; pair < 4; ++pair)
            for (int m = 0; m < 4; ++m) {
                const int thread = threads_by_rows[row][pair];
                const auto first = static_cast<uint32_t>(1000 * m + 10 * row + 2 * pair);
                CHECK(plain[thread][m] == (first | (first + 1) << 16), "ldmatrix, thread ", thread);
                const auto other = static_cast<uint32_t>(1000 * m + 20 * pair + row);
                CHECK(transposed[thread][m] == (other | (other + 10) << 16), "ldmatrix.trans, thread ", thread);
            }
    uint16_t back[4][8][8] = {};
    unsigned char* targets[32];
    for (int i = 0; i < 32; ++i) targets[i] = reinterpret_cast<unsigned char*>(back[i / 8][i % 8]);
    hostsim::stmatrix(targets, 4, true, transposed);
    CHECK(std::memcmp(back, matrices, sizeof(back)) == 0, "stmatrix.trans undoes ldmatrix.trans");
}

// 5.5, "Swizzling Modes": the chunk of 16 bytes, in the order of memory, that each row of a repeating pattern holds.
constexpr int pattern_128[8][8] = {{0, 1, 2, 3, 4, 5, 6, 7}, {1, 0, 3, 2, 5, 4, 7, 6}, {2, 3, 0, 1, 6, 7, 4, 5},
                                   {3, 2, 1, 0, 7, 6, 5, 4}, {4, 5, 6, 7, 0, 1, 2, 3}, {5, 4, 7, 6, 1, 0, 3, 2},
                                   {6, 7, 4, 5, 2, 3, 0, 1}, {7, 6, 5, 4, 3, 2, 1, 0}};
// Rows of 64 and 32 bytes, two and four to 128 bytes of memory.
constexpr int pattern_64[8][4] = {{0, 1, 2, 3}, {0, 1, 2, 3}, {1, 0, 3, 2}, {1, 0, 3, 2},
                                  {2, 3, 0, 1}, {2, 3, 0, 1}, {3, 2, 1, 0}, {3, 2, 1, 0}};
constexpr int pattern_32[8][2] = {{0, 1}, {0, 1}, {0, 1}, {0, 1}, {1, 0}, {1, 0}, {1, 0}, {1, 0}};

template <int Chunks>
void check_swizzle(const int (&pattern)[8][Chunks]) {
    const int span = 16 * Chunks;
    hostsim::TensorMap map{nullptr, 2, 2, span, {}, {}, {static_cast<int16_t>(span / 2), 8}};
    const hostsim::Operand k_major{1024, 0, 0, 0, span}, mn_major{1024, 0, 0, 0, span};
    for (int row = 0; row < 8; ++row)
        for (int place = 0; place < Chunks; ++place) {
            const int chunk = pattern[row][place];
            const auto address = static_cast<uint32_t>(1024 + row * span + 16 * place);
            CHECK(hostsim::box_address(map, 1024, row, 16 * chunk) == address, "box, span ", span, " row ", row);
            if (chunk < 2)
                CHECK(hostsim::chunk_address(k_major, false, row, 8 * chunk) == address, "K-major, span ", span);
            CHECK(hostsim::chunk_address(mn_major, true, 8 * chunk, row) == address, "MN-major, span ", span);
        }
}

// 9.7.15.5.1.2.1 (strides): what leads from one atom to the next.
void check_strides() {
    const auto step = [](int span, bool mn_major, int mn, int k) {
        const hostsim::Operand operand{0, 0x1000, 0x4000, 0, span};
        return hostsim::chunk_address(operand, mn_major, mn, k);
    };
    CHECK(step(16, false, 8, 0) == 0x4000 && step(16, false, 0, 8) == 0x1000 && step(16, false, 1, 0) == 16);
    CHECK(step(16, true, 8, 0) == 0x4000 && step(16, true, 0, 8) == 0x1000 && step(16, true, 0, 1) == 16);
    for (const int span : {32, 64, 128}) {
        CHECK(step(span, false, 8, 0) == 0x4000, "8 rows on, span ", span);
        CHECK(step(span, true, span / 2, 0) == 0x1000, "a span of mn on, span ", span);
        CHECK(step(span, true, 0, 8) == 0x4000, "8 k on, span ", span);
    }
}

// 9.7.15.5.1.2.2 (matrix descriptor): bits 0-13 start, 16-29 leading, 32-45 stride, each (x & 0x3FFFF) >> 4; 49-51 base
// offset; 62-63 mode: 0 none, 1 128 bytes, 2 64, 3 32.
void check_descriptor() {
    CHECK(wgmma_operand(0x12340, 0x80, 0x400, Swizzle::b128) == 0x4000004000081234);
    CHECK(wgmma_operand(0x3FFF0, 0x100, 0x200, Swizzle::b64) == 0x8000002000103FFF);
    CHECK(wgmma_operand(0x400, 0x3FFF0, 0x10, Swizzle::b32) == 0xC00000013FFF0040);
    CHECK(wgmma_operand(0x400, 0x10, 0x3FFF0, Swizzle::none) == 0x00003FFF00010040);
    const hostsim::Operand read = hostsim::decode_operand(0x400A004000081234);
    CHECK(read.start == 0x12340 && read.leading == 0x80 && read.stride == 0x400 && read.span == 128);
    CHECK(read.base_offset == 5);
    CHECK(hostsim::decode_operand(0x8000000000000000).span == 64 && hostsim::decode_operand(~0ull).span == 32);
    CHECK(hostsim::decode_operand(0).span == 16);
}

}  // namespace

int main() {
    check_m16n8k16();
    check_m16n8k8_tf32();
    check_wgmma_d();
    check_ldmatrix();
    check_swizzle(pattern_128);
    check_swizzle(pattern_64);
    check_swizzle(pattern_32);
    check_strides();
    check_descriptor();
    return finish();
}
