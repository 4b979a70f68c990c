// Every wrapper of common/ptx on random tiles, bit for bit against the functions that the host simulator answers it
// with, or plain loops: on a GPU of compute capability 9.0, or, to test this program itself, in the simulator. Data are
// small integers, whose sums no order of rounding changes.
#include <cstring>
#include <numeric>
#include <utility>

#include "hostsim/tensor_core.h"
#include "hostsim/tests/boxes.cuh"
#include "hostsim/tests/raw_kernels.cuh"

using namespace pk;
using namespace pk::test;

namespace {

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

uint16_t small_integer(Random& random, hostsim::Element element) {
    const auto value = static_cast<float>(random.integer(-4, 4));
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (element == hostsim::Element::bf16) return static_cast<uint16_t>(bits >> 16);
    // These integers need neither rounding nor a subnormal in half precision: only the exponent's width differs.
    return value == 0 ? 0 : static_cast<uint16_t>((bits >> 16 & 0x8000) | ((bits >> 13 & 0x3FFFF) - (112 << 10)));
}

template <Mma Kind>
void check_mma(Random& random) {
    std::vector<uint32_t> r(32 * 6);
    std::vector<float> d(32 * 4);
    for (uint32_t& word : r) {
        const auto element = Kind == Mma::f16 ? hostsim::Element::f16 : hostsim::Element::bf16;
        word = uint32_t{small_integer(random, element)} << 16;  // in tf32 the upper half of a float
        if (Kind != Mma::tf32) word |= small_integer(random, element);
    }
    for (float& value : d) value = static_cast<float>(random.integer(-100, 100));
    Reachable<uint32_t> on_r(r);
    Reachable<float> on_d(d);
    CHECK_OK(launch("raw_mma_kernel", Dtype::f32, raw_mma_kernel<Kind>, {{1}, {32}}, {}, on_r.data(), on_d.data()));
    uint32_t a[32][4], b[32][2];
    for (int lane = 0; lane < 32; ++lane) {
        std::memcpy(a[lane], &r[lane * 6], sizeof(a[lane]));
        std::memcpy(b[lane], &r[lane * 6 + 4], sizeof(b[lane]));
    }
    auto* rows = reinterpret_cast<float (*)[4]>(d.data());
    if (Kind == Mma::f16) hostsim::mma_m16n8k16(hostsim::Element::f16, rows, a, b);
    if (Kind == Mma::bf16) hostsim::mma_m16n8k16(hostsim::Element::bf16, rows, a, b);
    if (Kind == Mma::tf32) hostsim::mma_m16n8k8_tf32(rows, a, b);
    CHECK(same_bits(on_d.read(), d), "mma ", static_cast<int>(Kind));
}

template <bool Store, bool Transposed>
void check_matrix(Random& random) {
    std::vector<uint32_t> image(32 * 4), r(32 * 4);
    std::vector<int> rows(32);
    for (uint32_t& word : image) word = random.bits();
    for (uint32_t& word : r) word = random.bits();
    std::iota(rows.begin(), rows.end(), 0);
    for (int i = 31; i > 0; --i) std::swap(rows[i], rows[random.integer(0, i)]);
    Reachable<uint32_t> on_image(image), on_r(r);
    Reachable<int> on_rows(rows);
    CHECK_OK(launch("raw_matrix_kernel", Dtype::f16, raw_matrix_kernel<Store, Transposed>, {{1}, {32}, 512}, {},
                    on_image.data(), on_rows.data(), on_r.data()));
    unsigned char* at[32];
    for (int i = 0; i < 32; ++i) at[i] = reinterpret_cast<unsigned char*>(&image[rows[i] * 4]);
    auto* registers = reinterpret_cast<uint32_t (*)[4]>(r.data());
    if (Store) {
        hostsim::stmatrix(at, 4, Transposed, registers);
    } else {
        hostsim::ldmatrix(at, 4, Transposed, registers);
    }
    CHECK(same_bits(on_image.read(), image) && same_bits(on_r.read(), r), "matrix ", Store, Transposed);
}

void check_copies(Random& random) {
    std::vector<unsigned char> x(17 * 16), y(17 * 16, 1);
    for (auto& byte : x) byte = static_cast<unsigned char>(random.bits() | 1);
    Reachable<unsigned char> on_x(x), on_y(y);
    CHECK_OK(
        launch("raw_copy_kernel", Dtype::f32, raw_copy_kernel, {{1}, {32}, 17 * 16}, {}, on_x.data(), on_y.data()));
    for (int i = 0; i < 17; ++i)
        for (int j = 0; j < 16; ++j) y[16 * i + j] = j < i ? x[16 * i + j] : 0;
    CHECK(same_bits(on_y.read(), y), "cp.async");
}

void check_tf32(Random& random) {
    std::vector<float> x(64);
    for (float& value : x) value = static_cast<float>(std::ldexp(random.uniform(-1, 1), random.integer(-120, 120)));
    x[0] = 1 + 0x1p-11f;  // a tie
    x[1] = -INFINITY;
    std::vector<uint32_t> y(64);
    Reachable<float> on_x(x);
    Reachable<uint32_t> on_y(y);
    CHECK_OK(launch("raw_tf32_kernel", Dtype::f32, raw_tf32_kernel, {{1}, {64}}, {}, on_x.data(), on_y.data()));
    for (int i = 0; i < 64; ++i) {
        uint32_t bits;
        std::memcpy(&bits, &x[i], 4);
        y[i] = i == 1 ? bits : (bits + 0x1000) & 0xFFFFE000;
    }
    CHECK(same_bits(on_y.read(), y), "to_tf32");
}

/// Of all pairs of zeros, infinities, NaN and some numbers, as bits without their type's sign and order.
template <class T, class Bits>
void check_max(Bits infinity, Bits nan, Random& random) {
    constexpr Bits sign = Bits{1} << (8 * sizeof(Bits) - 1);
    std::vector<Bits> some{0, sign, infinity, static_cast<Bits>(infinity | sign), nan, static_cast<Bits>(infinity + 1)};
    while (some.size() < 16) some.push_back(static_cast<Bits>(random.bits()));
    std::vector<Bits> x, y, larger;
    const auto key = [&](Bits bits) { return bits & sign ? -1 - static_cast<int64_t>(bits ^ sign) : int64_t{bits}; };
    for (Bits a : some)
        for (Bits b : some) {
            const bool either = (a & (sign - 1)) > infinity || (b & (sign - 1)) > infinity;
            x.push_back(a), y.push_back(b), larger.push_back(either ? nan : key(a) < key(b) ? b : a);
        }
    Reachable<Bits> on_x(x), on_y(y), on_larger(larger);
    const unsigned threads = static_cast<unsigned>(x.size() / 2);
    const auto pairs = [](auto& on) { return reinterpret_cast<Vec<T, 2>*>(on.data()); };
    CHECK_OK(launch("raw_max_kernel", dtype_of<T>(), raw_max_kernel<T>, {{1}, {threads}}, {}, pairs(on_x), pairs(on_y),
                    pairs(on_larger)));
    CHECK(same_bits(on_larger.read(), larger), "max.NaN");
}

/// A tile holds `steps` k-steps of 16, `advance` bytes apart.
struct Layout {
    uint32_t leading, stride, bytes;
    int steps = 1;
    uint32_t advance = 0;
};

/// Strides of a tile of (size, 16) elements without gaps; `boxes`: of (size, 64) in boxes of 64 lines of k, as kernels
/// load an operand that is MN-major.
Layout layout_of(bool mn_major, Swizzle swizzle, uint32_t size, bool boxes) {
    const auto span = static_cast<uint32_t>(swizzle);
    if (mn_major && boxes) return {64 * span, 8 * span, size / 64 * 64 * span, 4, 16 * span};
    if (mn_major && swizzle == Swizzle::none) return {size / 8 * 128, 128, size * 32};
    if (mn_major) return {8 * span, size * 2 / span * 8 * span, size * 32};
    if (swizzle == Swizzle::none) return {128, 256, size * 32};
    return {16, 8 * span, size * span, static_cast<int>(span) / 32, 32};
}

template <int N, class T, bool AIsMMajor, bool BIsNMajor>
void check_wgmma(Random& random) {
    const auto element = std::is_same_v<T, bf16> ? hostsim::Element::bf16 : hostsim::Element::f16;
    using enum Swizzle;
    for (const auto& [swizzle, boxes] :
         {std::pair{none, false}, {b32, false}, {b64, false}, {b128, false}, {b128, true}}) {
        const Layout a = layout_of(AIsMMajor, swizzle, 64, boxes), b = layout_of(BIsNMajor, swizzle, N, boxes);
        std::vector<uint32_t> image((a.bytes + b.bytes) / 4);
        for (uint32_t& word : image)
            word = small_integer(random, element) | uint32_t{small_integer(random, element)} << 16;
        const auto step = [&](const Layout& tile) {
            return static_cast<uint32_t>(random.integer(0, tile.steps - 1)) * tile.advance;
        };
        const bool accumulate = random.integer(0, 1);
        const hostsim::Wgmma instruction{element,
                                         N,
                                         AIsMMajor,
                                         BIsNMajor,
                                         wgmma_operand(step(a), a.leading, a.stride, swizzle),
                                         wgmma_operand(a.bytes + step(b), b.leading, b.stride, swizzle)};
        std::vector<float> tile(64 * N), d(64 * N);
        for (float& value : tile) value = static_cast<float>(random.integer(-100, 100));
        const auto place = [&](size_t i) {
            const hostsim::At at = hostsim::wgmma_d(static_cast<int>(i / (N / 2)), static_cast<int>(i % (N / 2)));
            return static_cast<size_t>(at.row * N + at.column);
        };
        for (size_t i = 0; i < d.size(); ++i) d[i] = tile[place(i)];
        Reachable<uint32_t> on_image(image);
        Reachable<float> on_d(d);
        CHECK_OK(launch("raw_wgmma_kernel", dtype_of<T>(), raw_wgmma_kernel<N, T, AIsMMajor, BIsNMajor>,
                        {{1}, {128}, image.size() * 4 + 1024}, {}, on_image.data(), static_cast<int>(image.size()),
                        instruction.a, instruction.b, accumulate, on_d.data()));
        hostsim::wgmma_m64k16(instruction, reinterpret_cast<const unsigned char*>(image.data()), accumulate,
                              tile.data());
        for (size_t i = 0; i < d.size(); ++i) d[i] = tile[place(i)];
        CHECK(same_bits(on_d.read(), d), "wgmma N ", N, " swizzle ", static_cast<int>(swizzle), " boxes ", boxes,
              " majors ", AIsMMajor, BIsNMajor);
    }
}

template <int N, class T>
void check_wgmma_majors(Random& random) {
    check_wgmma<N, T, false, false>(random);
    check_wgmma<N, T, false, true>(random);
    check_wgmma<N, T, true, false>(random);
    check_wgmma<N, T, true, true>(random);
}

void check_steering() {
    Reachable<int> y({0, 0, 0});
    CHECK_OK(launch("steering_kernel", Dtype::f32, steering_kernel, {{1}, {384}}, {}, y.data()));
    CHECK(same_bits(y.read(), {4, 4, 4}), "one lane of each warp is elected");
}

}  // namespace

int main() {
#if defined(__CUDACC__)
    int major = 0;
    const cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    if (error != cudaSuccess || major != 9) {
        std::fprintf(stderr, "conformance needs a GPU of compute capability 9.0, found %s\n",
                     error == cudaSuccess ? "another" : cudaGetErrorString(error));
        return EXIT_FAILURE;
    }
#endif
    const DeviceGuard device(0);
    Random random(20);
    for (int round = 0; round < 4; ++round) {
        check_mma<Mma::f16>(random);
        check_mma<Mma::bf16>(random);
        check_mma<Mma::tf32>(random);
        check_matrix<false, false>(random);
        check_matrix<false, true>(random);
        check_matrix<true, false>(random);
        check_matrix<true, true>(random);
        check_copies(random);
        check_tf32(random);
        check_max<float, uint32_t>(0x7F800000, 0x7FFFFFFF, random);
        check_max<half, uint16_t>(0x7C00, 0x7FFF, random);
        check_max<bf16, uint16_t>(0x7F80, 0x7FFF, random);
        check_box<2>(Swizzle::none, {24, 5}, {16, 3}, {8, 2}, random);
        check_box<2>(Swizzle::b128, {72, 20}, {64, 16}, {-8, -3}, random);
        check_box<3>(Swizzle::b64, {32, 7, 3}, {32, 4, 2}, {0, 5, -1}, random);
        check_box<4>(Swizzle::b32, {16, 5, 4, 2}, {16, 3, 4, 2}, {0, -1, 2, 1}, random);
        check_box<5>(Swizzle::b128, {64, 9, 6, 2, 2}, {64, 4, 4, 1, 2}, {0, 7, -2, 1, 1}, random);
        check_multicast(random);
        check_steering();
        check_wgmma_majors<64, half>(random);
        check_wgmma_majors<128, bf16>(random);
        check_wgmma_majors<192, half>(random);
        check_wgmma_majors<256, bf16>(random);
    }
    return finish();
}
