// Every wrapper of common/ptx in a kernel, against plain loops, in several orders of threads and asynchronous
// operations.
#include "common/launch.cuh"
#include "hostsim/tests/check.h"
#include "hostsim/tests/ptx_kernels.cuh"

using namespace pk;
using namespace pk::test;

namespace {

template <class T>
void check_mma(uint64_t seed) {
    Random random(seed);
    Buffer<T> a(16 * 32), b(8 * 32);
    Buffer<float> c(16 * 8);
    a.fill_integers(random);
    b.fill_integers(random);
    CHECK_OK(launch("mma_kernel", dtype_of<T>(), mma_kernel<T>, {{1}, {32}, 2048}, {}, a.data(), b.data(), c.data()));
    CHECK_EQUAL("mma", c, product(a, b, 16, 8));
}

/// The element of a tensor of these sizes at coordinates + the box's index, or 0 outside.
double element_at(const Buffer<half>& x, const std::vector<int>& size, const std::vector<int>& at,
                  const std::vector<int>& box, size_t index, size_t& where) {
    size_t stride = 1;
    bool inside = true;
    where = 0;
    for (size_t i = 0; i < size.size(); ++i) {
        const int c = at[i] + static_cast<int>(index % box[i]);
        index /= box[i];
        inside &= 0 <= c && c < size[i];
        where += static_cast<size_t>(c) * stride;
        stride *= static_cast<size_t>(size[i]);
    }
    if (!inside) where = SIZE_MAX;
    return inside ? double{x[where]} : 0.;
}

template <int Rank>
void check_box(Swizzle swizzle, std::vector<int> size, std::vector<int> box, std::vector<int> at, uint64_t seed) {
    Random random(seed);
    size_t elements = 1, count = 1;
    TensorBox tensor{nullptr, Dtype::f16, Rank, {}, {}, {}, swizzle};
    for (int i = 0; i < Rank; ++i) {
        tensor.size[i] = size[i];
        tensor.box[i] = box[i];
        tensor.stride[i] = static_cast<int64_t>(elements);
        elements *= static_cast<size_t>(size[i]);
        count *= static_cast<size_t>(box[i]);
    }
    Buffer<half> x(elements), y(elements), moved(count);
    x.fill(random);
    y.fill_integers(random, 7, 7);
    TensorMap from, to;
    tensor.pointer = x.data();
    CHECK_OK(encode_tensor_map(tensor, from));
    tensor.pointer = y.data();
    CHECK_OK(encode_tensor_map(tensor, to));
    CHECK_OK(launch("box_kernel", Dtype::f16, box_kernel<Rank>, {{1}, {64}, count * 2 + 1024}, {}, from, to,
                    static_cast<int>(count * 2), at.data(), reinterpret_cast<unsigned char*>(moved.data())));
    std::vector<double> want(count), stored(elements, 7);
    const size_t span = static_cast<size_t>(swizzle);
    for (size_t i = 0; i < count; ++i) {
        // Chunk c of row r of a swizzled span lies at c ^ (r modulo the pattern).
        const size_t chunk = i / 8, rows = 128 / span * (span / 16), row = chunk / (span / 16);
        const size_t turn = swizzle == Swizzle::none ? 0 : row % (rows ? 8 : 1) * span / 128;
        size_t where;
        const double value = element_at(x, size, at, box, i, where);
        want[(chunk ^ turn) * 8 + i % 8] = value;
        if (where != SIZE_MAX) stored[where] = value;
    }
    CHECK_EQUAL("bulk load", moved, want);
    CHECK_EQUAL("bulk store", y, stored);
}

void check_multicast(uint64_t seed) {
    Random random(seed);
    Buffer<float> x(30 * 32), box(2 * 2 * 16 * 32);
    x.fill(random);
    TensorMap map;
    CHECK_OK(encode_tensor_map({x.data(), Dtype::f32, 2, {32, 30}, {1, 32}, {32, 16}, Swizzle::none}, map));
    CHECK_OK(launch("multicast_kernel", Dtype::f32, multicast_kernel, {{2}, {64}, 2 * 16 * 32 * 4 + 1024, {2}}, {}, map,
                    box.data()));
    std::vector<double> want(box.size());
    for (size_t i = 0; i < want.size(); ++i) want[i] = i % 1024 < 30 * 32 ? x[i % 1024] : 0;
    CHECK_EQUAL("multicast", box, want);
}

template <class T, int N, bool MnMajor>
void check_wgmma(uint64_t seed) {
    Random random(seed);
    const int depth = 128;
    Buffer<T> a(64 * depth), b(N * depth);
    Buffer<float> d(64 * N);
    a.fill_integers(random);
    b.fill_integers(random);
    const auto map = [&](const T* x, int rows) {
        TensorBox box{x, dtype_of<T>(), 2, {depth, rows}, {1, depth}, {64, rows}, Swizzle::b128};
        if (MnMajor) box = {x, dtype_of<T>(), 2, {rows, depth}, {1, rows}, {64, 64}, Swizzle::b128};
        TensorMap encoded;
        CHECK_OK(encode_tensor_map(box, encoded));
        return encoded;
    };
    CHECK_OK(launch("wgmma_kernel", dtype_of<T>(), wgmma_kernel<T, N, MnMajor>, {{1}, {128}, (64 + N) * 128 + 1024}, {},
                    map(a.data(), 64), map(b.data(), N), depth / 64, d.data()));
    CHECK_EQUAL("wgmma", d, product(a, b, 64, N, MnMajor));
}

void check_turns(uint64_t seed) {
    Random random(seed);
    Buffer<bf16> a(64 * 256), b(128 * 256);
    Buffer<float> d(64 * 128);
    a.fill_integers(random);
    b.fill_integers(random);
    TensorMap maps[2];
    for (int i = 0; i < 2; ++i)
        CHECK_OK(encode_tensor_map(
            {(i ? b : a).data(), Dtype::bf16, 2, {256, i ? 128 : 64}, {1, 256}, {64, i ? 128 : 64}, Swizzle::b128},
            maps[i]));
    CHECK_OK(launch("turns_kernel", Dtype::bf16, turns_kernel, {{1}, {128}, 192 * 512 + 1024}, {}, maps[0], maps[1],
                    d.data()));
    CHECK_EQUAL("turns", d, product(a, b, 64, 128));
}

void check_refusals() {
    alignas(16) float x[64];
    TensorMap map;
    const auto error = [&](TensorBox box) { return encode_tensor_map(box, map).error; };
    const TensorBox good{x, Dtype::f32, 2, {8, 8}, {1, 8}, {8, 8}, Swizzle::b32};
    CHECK(error(good).empty());
    TensorBox bad = good;
    bad.pointer = x + 1;
    CHECK(error(bad) == "a tensor map's pointer must be 16-byte aligned");
    bad = good;
    bad.stride[1] = 7;
    CHECK(error(bad) == "stride 28 of dimension 1 must be a multiple of 16 bytes below 2^40");
    bad = good;
    bad.box[1] = 257;
    CHECK(error(bad) == "box 257 of dimension 1 is not in 1 to 256");
    bad = good;
    bad.swizzle = Swizzle::b128;
    CHECK(error(bad) == "a row of a box swizzled over 128 bytes must be that long, got 32");
    bad = good;
    bad.rank = 6;
    CHECK(error(bad) == "a tensor map has 2 to 5 dimensions, got 6");
}

}  // namespace

int main() {
    const DeviceGuard device(0);
    check_refusals();
    for (uint64_t seed = 0; seed < 8; ++seed) {
        hostsim::set_seed(seed);
        check_mma<half>(seed);
        check_mma<bf16>(seed);
        // Inside, before and behind the tensor in each dimension, and wholly outside.
        check_box<2>(Swizzle::none, {24, 5}, {16, 3}, {8, 2}, seed);
        check_box<2>(Swizzle::b128, {72, 20}, {64, 16}, {-8, -3}, seed);
        check_box<3>(Swizzle::b64, {32, 7, 3}, {32, 4, 2}, {0, 5, -1}, seed);
        check_box<4>(Swizzle::b32, {16, 5, 4, 2}, {16, 3, 4, 2}, {0, -1, 2, 1}, seed);
        check_box<4>(Swizzle::b128, {64, 9, 6, 2}, {64, 4, 4, 1}, {0, 7, -2, 1}, seed);
        check_box<5>(Swizzle::none, {8, 3, 3, 2, 2}, {8, 2, 2, 2, 2}, {0, 2, -1, 1, 0}, seed);
        check_box<2>(Swizzle::none, {24, 5}, {16, 3}, {24, 2}, seed);
        check_multicast(seed);
        check_wgmma<half, 64, false>(seed);
        check_wgmma<bf16, 256, false>(seed);
        check_wgmma<bf16, 128, true>(seed);
        check_wgmma<half, 192, true>(seed);
        check_turns(seed);
    }
    return finish();
}
