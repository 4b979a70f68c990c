#include "hostsim/tensor_map.h"

#include <cstring>

#include "hostsim/layout.h"

namespace hostsim {

namespace {

struct Row {
    unsigned char* memory;  // of element 0 of dimension 0; null where the row lies outside
    int first, last;        // elements of the box inside the tensor
};

Row locate(const TensorMap& map, const int* coordinates, int64_t row) {
    auto* memory = static_cast<unsigned char*>(const_cast<void*>(map.pointer));
    for (int i = 1; i < map.rank; ++i) {
        const int64_t at = coordinates[i] + row % map.box[i];
        row /= map.box[i];
        if (at < 0 || at >= map.size[i]) return {nullptr, 0, 0};
        memory += at * map.step[i];
    }
    const int64_t first = coordinates[0] < 0 ? -int64_t{coordinates[0]} : 0;
    const int64_t end = map.size[0] - coordinates[0];
    const int64_t last = end < map.box[0] ? end : map.box[0];
    if (first >= last) return {nullptr, 0, 0};
    return {memory + (coordinates[0] + first) * map.element_bytes, static_cast<int>(first), static_cast<int>(last)};
}

}  // namespace

uint32_t box_address(const TensorMap& map, uint32_t start, int64_t row, int at) {
    return swizzled(start + static_cast<uint32_t>(row * row_bytes(map) + at), map.span);
}

const void* box_row(const TensorMap& map, const int* coordinates, int64_t row, int64_t& bytes) {
    const Row inside = locate(map, coordinates, row);
    bytes = int64_t{inside.last - inside.first} * map.element_bytes;
    return inside.memory;
}

void read_box_row(const TensorMap& map, const int* coordinates, int64_t row, unsigned char* to) {
    const Row inside = locate(map, coordinates, row);
    std::memset(to, 0, row_bytes(map));
    if (inside.memory)
        std::memcpy(to + inside.first * map.element_bytes, inside.memory,
                    static_cast<size_t>(inside.last - inside.first) * map.element_bytes);
}

void write_box_row(const TensorMap& map, const int* coordinates, int64_t row, const unsigned char* from) {
    const Row inside = locate(map, coordinates, row);
    if (inside.memory)
        std::memcpy(inside.memory, from + inside.first * map.element_bytes,
                    static_cast<size_t>(inside.last - inside.first) * map.element_bytes);
}

}  // namespace hostsim
