// Every wrapper of common/ptx in a kernel, against plain loops, in several orders of threads and asynchronous
// operations.
#include "hostsim/tests/boxes.cuh"

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
        Random random(seed);
        check_mma<half>(seed);
        check_mma<bf16>(seed);
        // Inside, before and behind the tensor in each dimension, and wholly outside.
        check_box<2>(Swizzle::none, {24, 5}, {16, 3}, {8, 2}, random);
        check_box<2>(Swizzle::b128, {72, 20}, {64, 16}, {-8, -3}, random);
        check_box<3>(Swizzle::b64, {32, 7, 3}, {32, 4, 2}, {0, 5, -1}, random);
        check_box<4>(Swizzle::b32, {16, 5, 4, 2}, {16, 3, 4, 2}, {0, -1, 2, 1}, random);
        check_box<4>(Swizzle::b128, {64, 9, 6, 2}, {64, 4, 4, 1}, {0, 7, -2, 1}, random);
        check_box<5>(Swizzle::none, {8, 3, 3, 2, 2}, {8, 2, 2, 2, 2}, {0, 2, -1, 1, 0}, random);
        check_box<2>(Swizzle::none, {24, 5}, {16, 3}, {24, 2}, random);
        check_multicast(random);
        check_wgmma<half, 64, false>(seed);
        check_wgmma<bf16, 256, false>(seed);
        check_wgmma<bf16, 128, true>(seed);
        check_wgmma<half, 192, true>(seed);
        check_turns(seed);
    }
    return finish();
}
