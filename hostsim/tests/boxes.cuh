// Boxes moved by the copy engine, against plain loops: in the simulator or on a GPU.
#pragma once

#include "common/launch.cuh"
#include "hostsim/tests/check.h"
#include "hostsim/tests/ptx_kernels.cuh"

namespace pk::test {

/// An array where kernels can reach it.
template <class T>
class Reachable {
  public:
    explicit Reachable(const std::vector<T>& values) : values_(values) {
#if defined(__CUDACC__)
        CHECK(cudaMalloc(&memory_, values.size() * sizeof(T)) == cudaSuccess);
        CHECK(cudaMemcpy(memory_, values.data(), values.size() * sizeof(T), cudaMemcpyDefault) == cudaSuccess);
#else
        memory_ = values_.data();
#endif
    }
    ~Reachable() {
#if defined(__CUDACC__)
        cudaFree(memory_);
#endif
    }
    Reachable(const Reachable&) = delete;
    Reachable& operator=(const Reachable&) = delete;
    T* data() { return memory_; }
    const std::vector<T>& read() {
#if defined(__CUDACC__)
        const cudaError_t error = cudaMemcpy(values_.data(), memory_, values_.size() * sizeof(T), cudaMemcpyDefault);
        CHECK(error == cudaSuccess, cudaGetErrorString(error));
#endif
        return values_;
    }

  private:
    std::vector<T> values_;
    T* memory_ = nullptr;
};

/// Where element `index` of a box at these coordinates lies in a tensor of these sizes; SIZE_MAX outside.
inline size_t place_in(const std::vector<int>& size, const std::vector<int>& at, const std::vector<int>& box,
                       size_t index) {
    size_t stride = 1, place = 0;
    bool inside = true;
    for (size_t i = 0; i < size.size(); ++i) {
        const int c = at[i] + static_cast<int>(index % box[i]);
        index /= box[i];
        inside &= 0 <= c && c < size[i];
        place += static_cast<size_t>(c) * stride;
        stride *= static_cast<size_t>(size[i]);
    }
    return inside ? place : SIZE_MAX;
}

template <int Rank>
void check_box(Swizzle swizzle, std::vector<int> size, std::vector<int> box, std::vector<int> at, Random& random) {
    size_t elements = 1, count = 1;
    TensorBox tensor{nullptr, Dtype::f16, Rank, {}, {}, {}, swizzle};
    for (int i = 0; i < Rank; ++i) {
        tensor.size[i] = size[i];
        tensor.box[i] = box[i];
        tensor.stride[i] = static_cast<int64_t>(elements);
        elements *= static_cast<size_t>(size[i]);
        count *= static_cast<size_t>(box[i]);
    }
    std::vector<uint16_t> x(elements), stored(elements, 7), want(count, 0xFFFF);
    for (uint16_t& bits : x) bits = static_cast<uint16_t>(random.bits());
    Reachable<uint16_t> on_x(x), on_y(stored), moved(want);
    Reachable<int> on_at(at);
    TensorMap from, to;
    tensor.pointer = on_x.data();
    CHECK_OK(encode_tensor_map(tensor, from));
    tensor.pointer = on_y.data();
    CHECK_OK(encode_tensor_map(tensor, to));
    CHECK_OK(launch("box_kernel", Dtype::f16, box_kernel<Rank>, {{1}, {64}, count * 2 + 1024}, {}, from, to,
                    static_cast<int>(count * 2), on_at.data(), reinterpret_cast<unsigned char*>(moved.data())));
    const size_t span = static_cast<size_t>(swizzle);
    for (size_t i = 0; i < count; ++i) {
        // Chunk c of row r of a swizzled span lies at c ^ (r modulo the pattern).
        const size_t chunk = i / 8, rows = 128 / span * (span / 16), row = chunk / (span / 16);
        const size_t turn = swizzle == Swizzle::none ? 0 : row % (rows ? 8 : 1) * span / 128;
        const size_t place = place_in(size, at, box, i);
        want[(chunk ^ turn) * 8 + i % 8] = place == SIZE_MAX ? 0 : x[place];
        if (place != SIZE_MAX) stored[place] = x[place];
    }
    CHECK_EQUAL("bulk load", moved.read(), want);
    CHECK_EQUAL("bulk store", on_y.read(), stored);
}

inline void check_multicast(Random& random) {
    std::vector<float> x(30 * 32), want(2 * 2 * 16 * 32, NAN);
    for (float& value : x) value = static_cast<float>(random.uniform(-1, 1));
    Reachable<float> on_x(x), box(want);
    TensorMap map;
    CHECK_OK(encode_tensor_map({on_x.data(), Dtype::f32, 2, {32, 30}, {1, 32}, {32, 16}, Swizzle::none}, map));
    CHECK_OK(launch("multicast_kernel", Dtype::f32, multicast_kernel, {{2}, {64}, 2 * 16 * 32 * 4 + 1024, {2}}, {}, map,
                    box.data()));
    for (size_t i = 0; i < want.size(); ++i) want[i] = i % 1024 < x.size() ? x[i % 1024] : 0;
    CHECK_EQUAL("multicast", box.read(), want);
}

}  // namespace pk::test
