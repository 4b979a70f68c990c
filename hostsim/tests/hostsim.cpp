// The simulator itself: number formats, barriers, warp operations, shared memory, clusters, and what it says of faults.
#include "hostsim/hostsim.h"

#include <algorithm>
#include <thread>

#include "common/launch.cuh"
#include "common/ptx/cluster.cuh"
#include "common/ptx/warp.cuh"
#include "common/tensor_map.h"
#include "hostsim/tests/check.h"

using namespace pk;
using namespace pk::test;

namespace {

/// The nearest of a format's numbers, ties to the even one: by trying them all.
template <class T>
uint16_t nearest(float value, uint16_t infinity) {
    uint16_t best = 0;
    double distance = INFINITY;
    for (uint16_t bits = 0; bits <= infinity; ++bits) {
        // Beyond the largest number, infinity counts as the next power of two.
        const double candidate = bits == infinity ? 2 * double{std::bit_cast<T>(static_cast<uint16_t>(0x7C00 - 0x400))}
                                                  : double{std::bit_cast<T>(bits)};
        const double d = std::abs(candidate - std::abs(double{value}));
        if (d < distance || (d == distance && bits % 2 == 0)) {
            best = bits;
            distance = d;
        }
    }
    return static_cast<uint16_t>(best | (std::signbit(value) ? 0x8000 : 0));
}

void check_numbers() {
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
        const auto h = std::bit_cast<half>(static_cast<uint16_t>(bits));
        const auto b = std::bit_cast<bf16>(static_cast<uint16_t>(bits));
        const bool h_is_nan = (bits & 0x7FFF) > 0x7C00, b_is_nan = (bits & 0x7FFF) > 0x7F80;
        CHECK(h_is_nan ? std::isnan(float{h}) && half(float{h}).bits == 0x7FFF : half(float{h}).bits == bits, bits);
        CHECK(b_is_nan ? std::isnan(float{b}) && bf16(float{b}).bits == 0x7FFF : bf16(float{b}).bits == bits, bits);
    }
    CHECK(float{std::bit_cast<half>(uint16_t{0x3555})} == 0.333251953125f);
    CHECK(float{std::bit_cast<bf16>(uint16_t{0x4049})} == 3.140625f);
    Random random(1);
    for (int i = 0; i < 60; ++i) {
        const auto value = static_cast<float>(std::ldexp(random.uniform(-2, 2), random.integer(-26, 15)));
        CHECK(half(value).bits == nearest<half>(value, 0x7C00), value);
    }
    CHECK(half(65519.f).bits == 0x7BFF && half(65520.f).bits == 0x7C00 && half(-1e9f).bits == 0xFC00);
    CHECK(half(0x1p-25f).bits == 0 && half(0x1.8p-25f).bits == 1 && half(-0.f).bits == 0x8000);
    CHECK(half(1 + 0x1p-11f).bits == 0x3C00 && half(1 + 0x1.8p-10f).bits == 0x3C02);
    CHECK(bf16(1 + 0x1p-8f).bits == 0x3F80 && bf16(1 + 0x1.8p-7f).bits == 0x3F82 && bf16(3.4e38f).bits == 0x7F80);
    CHECK(half(1 + 0x1p-11 + 0x1p-40).bits == 0x3C01, "a double rounds once");
}

/// Sums of a block by shuffles of both kinds, static and dynamic shared memory, half a warp on its own.
__global__ void reduce_kernel(const int* g_x, int* g_y) {
    __shared__ int s_part[4];
    int* s_x = shared_memory<int>();
    const int i = static_cast<int>(threadIdx.x + threadIdx.y * blockDim.x), lane = i % 32;
    s_x[i] = g_x[i];
    __syncthreads();
    const int own = s_x[127 - i], left = __shfl_sync(~0u, own, 9, 8);  // lane 1 of each eight
    int v = own;
    for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
    if (lane == 0) s_part[i / 32] = v;
    __syncthreads();
    if (i == 0) g_y[0] = s_part[0] + s_part[1] + s_part[2] + s_part[3];
    if (lane < 16) {
        const int sum = lane + __shfl_xor_sync(0xFFFFu, lane, 1, 16);
        if (lane == 3) atomicAdd(&g_y[1], sum);
    } else {
        __syncwarp(0xFFFF0000u);
        if (lane == 20) atomicAdd(&g_y[2], 1);
    }
    if (left == s_x[127 - (i / 8 * 8 + 1)]) atomicAdd(&g_y[3], 1);
}

void check_reduce() {
    Buffer<int> x(128);
    for (size_t i = 0; i < 128; ++i) x[i] = static_cast<int>(i * i);
    for (uint64_t seed = 0; seed < 8; ++seed) {
        hostsim::set_seed(seed);
        std::vector<int> y(4);
        CHECK_OK(launch("reduce_kernel", Dtype::f32, reduce_kernel, {{1}, {32, 4}, 512}, {}, x.data(), y.data()));
        CHECK(y[0] == 127 * 128 * 255 / 6 && y[1] == 4 * 5 && y[2] == 4 && y[3] == 128, y[0]);
    }
}

/// Launches from other threads, as backward passes make them, have static shared memory of their own.
void check_other_threads() {
    std::vector<std::thread> threads;
    int sums[4] = {};
    for (int& sum : sums)
        threads.emplace_back([&sum] {
            const std::vector<int> x(128, 1);
            for (int round = 0; round < 20; ++round) {
                int y[4] = {};
                if (!launch("reduce_kernel", Dtype::f32, reduce_kernel, {{1}, {32, 4}, 512}, {}, x.data(), y).ok())
                    return;
                sum += y[0];
            }
        });
    for (std::thread& thread : threads) thread.join();
    for (const int sum : sums) CHECK(sum == 20 * 128, sum);
}

/// Named barriers: warp 0 produces for warp 1, which hands the buffer back.
__global__ void relay_kernel(int* g_y) {
    __shared__ int s_value;
    for (int i = 0; i < 5; ++i) {
        if (threadIdx.x < 32) {
            if (i > 0) barrier_sync<2, 64>();
            if (threadIdx.x == 0) s_value = i * i;
            barrier_arrive<1, 64>();
        } else {
            barrier_sync<1, 64>();
            if (threadIdx.x == 40) g_y[i] = s_value;
            if (i < 4) barrier_arrive<2, 64>();
        }
    }
}

/// Static shared memory is each block's own, in a cluster too.
__global__ void own_kernel(int* g_y) {
    __shared__ int s_own[32];
    s_own[threadIdx.x] = static_cast<int>(blockIdx.x * 100 + threadIdx.x);
    cluster_arrive();
    cluster_wait();
    g_y[blockIdx.x * 32 + threadIdx.x] = s_own[31 - threadIdx.x];
}

void check_relay_and_own() {
    for (uint64_t seed = 0; seed < 8; ++seed) {
        hostsim::set_seed(seed);
        Buffer<int> y(5), own(8 * 32);
        CHECK_OK(launch("relay_kernel", Dtype::f32, relay_kernel, {{1}, {64}}, {}, y.data()));
        CHECK_EQUAL("relay", y, (std::vector<int>{0, 1, 4, 9, 16}));
        CHECK_OK(launch("own_kernel", Dtype::f32, own_kernel, {{8}, {32}, 0, {4}}, {}, own.data()));
        std::vector<int> want(8 * 32);
        for (int i = 0; i < 8 * 32; ++i) want[i] = i / 32 * 100 + 31 - i % 32;
        CHECK_EQUAL("own", own, want);
    }
}

/// The order in which threads run, as they note it.
__global__ void order_kernel(int* g_order, int* g_next) { g_order[(*g_next)++] = static_cast<int>(threadIdx.x); }

void check_order() {
    std::vector<std::vector<int>> orders;
    for (const uint64_t seed : {1, 2, 1}) {
        hostsim::set_seed(seed);
        std::vector<int> order(64);
        int next = 0;
        CHECK_OK(launch("order_kernel", Dtype::f32, order_kernel, {{1}, {64}}, {}, order.data(), &next));
        orders.push_back(order);
        std::sort(order.begin(), order.end());
        for (int i = 0; i < 64; ++i) CHECK(order[i] == i, "every thread once");
    }
    CHECK(orders[0] != orders[1] && orders[0] == orders[2], "the seed decides the order");
}

__global__ void poisoned_kernel(float* g_y) {
    __shared__ float s_x[32];
    g_y[threadIdx.x] = s_x[threadIdx.x];
    g_y[32 + threadIdx.x] = shared_memory<float>()[threadIdx.x];
    s_x[threadIdx.x] = shared_memory<float>()[threadIdx.x] = 1;
}

void check_poison() {
    Buffer<float> y(64);
    Random random(1);
    y.fill(random);
    CHECK_OK(launch("poisoned_kernel", Dtype::f32, poisoned_kernel, {{3}, {32}, 128}, {}, y.data()));
    for (size_t i = 0; i < 64; ++i) CHECK(std::isnan(y[i]), "shared memory begins as NaN in every block");
}

void check_refusals() {
    const auto refused = [](const Shape& shape) {
        return launch("order_kernel", Dtype::f32, order_kernel, shape, {}, nullptr, nullptr).error;
    };
    CHECK(refused({{1}, {1025}}) == "order_kernel: a block cannot have 1025 threads");
    CHECK(refused({{1, 65536}, {32}}) == "order_kernel: a grid cannot be (1, 65536, 1)");
    CHECK(refused({{3}, {32}, 0, {2}}) == "order_kernel: clusters of (2, 1, 1) do not divide the grid");
    CHECK(refused({{1}, {32}, 232449}) == "order_kernel: 232449 bytes of shared memory are more than 232448");
    CHECK(refused({{0}, {32}}).empty(), "an empty grid launches nothing");
}

/// A captured launch runs again with the parameters it had.
__global__ void add_kernel(int* g_sum, int value) {
    if (threadIdx.x == 0) *g_sum += value;
}

void check_replay() {
    int sum = 0, value = 3;
    hostsim::capture();
    CHECK_OK(launch("add_kernel", Dtype::f32, add_kernel, {{1}, {32}}, {}, &sum, value));
    value = 100;
    CHECK_OK(launch("add_kernel", Dtype::f32, add_kernel, {{2}, {32}}, {}, &sum, 1));
    CHECK(sum == 5 && hostsim::replay().empty() && sum == 10, sum);
}

/// A driver's function needs a context, which a thread has under a guard, as on a GPU from its first launch on.
void check_context() {
    Buffer<float> x(32);
    TensorMap map;
    const auto encode = [&] {
        return encode_tensor_map({x.data(), Dtype::f32, 2, {4, 8}, {1, 4}, {4, 8}, Swizzle::none}, map);
    };
    std::thread([&] {
        CHECK(encode().error == "the driver refused a tensor map: error 201");
        const DeviceGuard outer(0);
        {
            const DeviceGuard inner(0);
        }
        CHECK_OK(encode());
    }).join();
}

/// Kernels ask for their device's shared memory once, from whatever thread and with whatever size they are launched.
void check_once() {
    OncePerKernel once;
    int calls[2][3] = {}, refused = 0;
    const int kernels[2] = {};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&] {
            for (int i = 0; i < 60; ++i)
                once(&kernels[i % 2], i % 3,
                     [&] { return i % 3 < 2 || ++refused > 5 ? ++calls[i % 2][i % 3] : false; });
        });
    for (std::thread& thread : threads) thread.join();
    for (const auto& devices : calls)
        for (const int count : devices) CHECK(count == 1, count);
    CHECK(refused == 7, refused, ": what failed is tried again");
}

struct Odd {
    char bytes[5];
};
static_assert(parameter_bytes<>() == 0 && parameter_bytes<Odd, int*, char>() == 17);
static_assert(parameter_bytes<char, TensorMap>() == 192);

}  // namespace

int main() {
    check_numbers();
    check_reduce();
    check_other_threads();
    check_relay_and_own();
    check_order();
    check_poison();
    check_refusals();
    check_replay();
    check_context();
    check_once();
    return finish();
}
