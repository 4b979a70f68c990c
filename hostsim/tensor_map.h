// What a tensor map holds on the host.
#pragma once

#include <cstdint>

namespace hostsim {

struct TensorMap {
    const void* pointer;
    int rank, element_bytes, span;  // span: bytes that swizzling works on, 16 for none
    int64_t size[5];
    int64_t step[5];  // bytes between neighbours
    int16_t box[5];
};

/// Offset in shared memory of byte `at` of row `row` of a box that begins at `start`, swizzling included.
uint32_t box_address(const TensorMap& map, uint32_t start, int64_t row, int at);

/// The part of the row inside the tensor, and its length; null where there is none.
const void* box_row(const TensorMap& map, const int* coordinates, int64_t row, int64_t& bytes);
/// The bytes of the box at `coordinates` in the order of box_address without swizzling; zeros outside the tensor.
void read_box_row(const TensorMap& map, const int* coordinates, int64_t row, unsigned char* to);
/// Write the row's elements that lie inside the tensor.
void write_box_row(const TensorMap& map, const int* coordinates, int64_t row, const unsigned char* from);

inline int row_bytes(const TensorMap& map) { return map.box[0] * map.element_bytes; }
inline int64_t row_count(const TensorMap& map) {
    int64_t rows = 1;
    for (int i = 1; i < map.rank; ++i) rows *= map.box[i];
    return rows;
}

}  // namespace hostsim
