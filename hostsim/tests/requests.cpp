// Kernels whose requests are known, by the CUDA programming guide's rules: sectors of 32 bytes, 32 banks of 4 bytes.
// Only the profile build counts them.
#include "hostsim/requests.h"

#include "common/launch.cuh"
#include "common/ptx/cp_async.cuh"
#include "common/vec.cuh"
#include "hostsim/tests/check.h"

extern "C" {
void hostsim_profile_start();
const char* hostsim_profile_stop();
}

using namespace pk;
using namespace pk::test;
using hostsim::Event, hostsim::global_read, hostsim::global_write, hostsim::global_atomic, hostsim::shared_read;
using hostsim::Row, hostsim::shared_write, hostsim::shared_atomic, hostsim::Traffic;

namespace {

__global__ void stride_kernel(const float* x, float* y, int stride) { y[threadIdx.x] = x[threadIdx.x * stride]; }

template <int Pad>
__global__ void transpose_kernel(const float* x, float* y) {
    __shared__ float s_tile[32][32 + Pad];
    const int column = static_cast<int>(threadIdx.x) % 32, row = static_cast<int>(threadIdx.x) / 32;
    s_tile[row][column] = x[row * 32 + column];
    __syncthreads();
    y[row * 32 + column] = s_tile[column][row];
}

template <class T, int N>
__global__ void vector_kernel(const T* x, T* y, int offset) {
    auto* s_x = shared_memory<Vec<T, N>>();
    s_x[threadIdx.x] = reinterpret_cast<const Vec<T, N>*>(x + offset)[threadIdx.x];
    __syncthreads();
    reinterpret_cast<Vec<T, N>*>(y)[threadIdx.x] = s_x[threadIdx.x ^ 1];
}

template <class T>
__device__ __forceinline__ float sum_of(Vec<T> v) {
    float sum = 0;
    for (int k = 0; k < vec_size<T>; ++k) sum += static_cast<float>(v[k]);
    return sum;
}

/// A vector of 16 bytes a lane, read as one or by its elements.
template <class T, bool ByValue>
__global__ void elements_kernel(const T* x, float* y) {
    auto* s_x = shared_memory<Vec<T>>();
    s_x[threadIdx.x] = reinterpret_cast<const Vec<T>*>(x)[threadIdx.x];
    __syncthreads();
    float sum = 0;
    if constexpr (ByValue) {
        sum = sum_of(s_x[threadIdx.x]);
    } else {
        for (int k = 0; k < vec_size<T>; ++k) sum += static_cast<float>(s_x[threadIdx.x][k]);
    }
    y[threadIdx.x] = sum;
}

/// Lane l reads l % 4 + 1 elements of each of 8 rows: behind every row the lanes meet again.
__global__ void ragged_kernel(const float* x, float* y) {
    const int lane = static_cast<int>(threadIdx.x), count = lane % 4 + 1;
    float sum = 0;
    for (int row = 0; row < 8; ++row)
        for (int i = 0; i < count; ++i) sum += x[(row * 4 + i) * 32 + lane];
    y[lane] = sum;
}

__global__ void branch_kernel(const float* x, float* y) {
    const int lane = static_cast<int>(threadIdx.x);
    float v;
    if (lane % 2) {
        v = x[lane];
    } else {
        v = x[64 + lane];
    }
    y[lane] = v;
}

/// Half of the lanes read in each round, a quarter then skips the rest of it, and they leave at different rounds.
__global__ void skip_kernel(const float* x, float* y) {
    const int lane = static_cast<int>(threadIdx.x);
    float sum = 0;
    for (int i = 0; i < 8; ++i) {
        if ((lane + i) % 2) {
            sum += x[i * 32 + lane];
            if (lane % 4 == 3) continue;
        }
        if (i == 4 + lane % 4) break;
        y[i * 32 + lane] = sum;
    }
    y[8 * 32 + lane] = sum;
}

__attribute__((noinline)) float sum_of_rows(const float* x, int rows) {
    float sum = 0;
    for (int i = 0; i < rows; ++i) sum += x[32 * i];
    return sum;
}

__global__ void call_kernel(const float* x, float* y) {
    const int lane = static_cast<int>(threadIdx.x);
    float sum = 0;
    for (int i = 0; i < 4; ++i) sum += sum_of_rows(x + 128 * i + lane, lane % 2 + 1);
    y[lane] = sum;
}

/// Rows of `columns` elements, 8 lanes a row.
__global__ void rows_kernel(const bf16* x, bf16* y, int columns) {
    const int row = static_cast<int>(threadIdx.x) / 8, column = static_cast<int>(threadIdx.x) % 8 * 8;
    for (int k = 0; k < 8; ++k) y[row * 64 + column + k] = x[row * columns + column + k];
}

__global__ void atomic_kernel(const float*, float* y) {
    __shared__ int s_bins[32];
    s_bins[threadIdx.x] = 0;
    __syncwarp();
    atomicAdd(&s_bins[threadIdx.x / 8], 1);
    __syncwarp();
    if (threadIdx.x % 2) atomicAdd(&y[threadIdx.x / 4], 1.f + static_cast<float>(s_bins[threadIdx.x]));
    y[32 + threadIdx.x] = 0;
}

/// Four threads' copies of 16 bytes, of which one has only 8.
__global__ void copy_kernel(const float* x, float* y) {
    auto* s_x = shared_memory<float>();
    const unsigned i = threadIdx.x;
    if (i < 4) cp_async_16(&s_x[4 * i], x + 4 * i, i < 3 ? 16 : 8);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    y[i] = i < 16 ? s_x[i] : 0;
}

/// All reads between two barriers, 64 times: what has been counted is no longer kept.
__global__ void rounds_kernel(const float* x, float* y) {
    float sum = 0;
    for (int i = 0; i < 64; ++i) {
        sum += x[threadIdx.x];
        __syncthreads();
    }
    y[threadIdx.x] = sum;
}

struct Size {
    unsigned threads, blocks;
    Size(unsigned threads, unsigned blocks = 1) : threads(threads), blocks(blocks) {}
};

/// What a launch asked for, summed by event and buffer.
class Profile {
  public:
    template <class X, class Y, class... Args>
    Profile(const char* name, Size size, void (*kernel)(const X*, Y*, Args...), std::type_identity_t<Args>... args) {
        Buffer<X> x(8192);
        Buffer<Y> y(8192);
        std::memset(static_cast<void*>(x.data()), 0, 8192 * sizeof(X));
        std::memset(static_cast<void*>(y.data()), 0, 8192 * sizeof(Y));
        hostsim_profile_start();
        hostsim::add_buffer("x", x.data(), 8192 * sizeof(X));
        hostsim::add_buffer("y", y.data(), 8192 * sizeof(Y));
        const Shape shape{dim3(size.blocks), dim3(size.threads), 8192};
        CHECK_OK(launch(name, Dtype::f32, kernel, shape, Queue{}, static_cast<const X*>(x.data()), y.data(), args...));
        rows_ = hostsim::counted();
        hostsim_profile_stop();
    }

    Traffic of(Event event, const char* buffer = "shared") const {
        Traffic sum;
        for (const Row& row : rows_) {
            if (row.event != event || row.buffer != buffer) continue;
            const Traffic& c = row.counts;
            sum.requests += c.requests, sum.lanes += c.lanes, sum.bytes += c.bytes;
            sum.sectors += c.sectors, sum.ideal_sectors += c.ideal_sectors, sum.lines += c.lines;
            sum.block_sectors += c.block_sectors, sum.new_sectors += c.new_sectors;
            sum.wavefronts += c.wavefronts, sum.ideal_wavefronts += c.ideal_wavefronts;
            for (size_t i = 0; i < c.merged_cost.size(); ++i)
                sum.merged_requests[i] += c.merged_requests[i], sum.merged_cost[i] += c.merged_cost[i];
        }
        return sum;
    }

  private:
    std::vector<Row> rows_;
};

/// Requests, and all that they come to in sectors (global) or wavefronts (shared).
void expect(const char* what, const Traffic& got, uint64_t requests, uint64_t cost, bool shared = false) {
    const uint64_t all = shared ? got.wavefronts : got.sectors;
    CHECK(got.requests == requests && all == cost, what, ": ", got.requests, " requests, cost ", all);
}

void check_global() {
    const Profile one("stride_kernel", 32, stride_kernel, 1), far("stride_kernel", 32, stride_kernel, 32);
    expect("stride 1", one.of(global_read, "x"), 1, 4);
    expect("stride 1, stores", one.of(global_write, "y"), 1, 4);
    expect("stride 32", far.of(global_read, "x"), 1, 32);
    CHECK(far.of(global_read, "x").lines == 32 && far.of(global_read, "x").ideal_sectors == 4);
    expect("broadcast", Profile("stride_kernel", 32, stride_kernel, 0).of(global_read, "x"), 1, 1);

    expect("rows of 67", Profile("rows_kernel", 32, rows_kernel, 67).of(global_read, "x"), 8, 8 * 17);
    CHECK(Profile("rows_kernel", 32, rows_kernel, 67).of(global_read, "x").lines == 8 * 5);
    expect("off by 16 bytes", Profile("vector_kernel", 32, vector_kernel<float, 4>, 4).of(global_read, "x"), 1, 17);

    // Three blocks of one warp that read the same values.
    const Traffic again = Profile("stride_kernel", Size(32, 3), stride_kernel, 1).of(global_read, "x");
    CHECK(again.sectors == 12 && again.block_sectors == 12 && again.new_sectors == 4);
    const Traffic rounds = Profile("rounds_kernel", 64, rounds_kernel).of(global_read, "x");
    CHECK(rounds.requests == 128 && rounds.sectors == 512 && rounds.block_sectors == 8 && rounds.new_sectors == 8);
}

void check_shared() {
    expect("transposed", Profile("transpose_kernel", 1024, transpose_kernel<0>).of(shared_read), 32, 32 * 32, true);
    expect("padded", Profile("transpose_kernel", 1024, transpose_kernel<1>).of(shared_read), 32, 32, true);
    const Profile pairs("vector_kernel", 32, vector_kernel<float, 2>, 0);
    const Profile fours("vector_kernel", 32, vector_kernel<float, 4>, 0);
    const Profile eights("vector_kernel", 32, vector_kernel<bf16, 8>, 0);
    expect("64 bits", pairs.of(global_read, "x"), 1, 8);
    expect("64 bits, shared", pairs.of(shared_read), 1, 2, true);
    expect("128 bits", fours.of(global_read, "x"), 1, 16);
    expect("128 bits, shared", fours.of(shared_write), 1, 4, true);
    expect("128 bits of bf16", eights.of(global_read, "x"), 1, 16);
    expect("128 bits of bf16, shared", eights.of(shared_read), 1, 4, true);

    const Profile by_value("elements_kernel", 32, elements_kernel<bf16, true>);
    const Profile each("elements_kernel", 32, elements_kernel<bf16, false>);
    const Profile floats("elements_kernel", 32, elements_kernel<float, false>);
    expect("a vector by value", by_value.of(shared_read), 1, 4, true);
    expect("by element, bf16", each.of(shared_read), 8, 8 * 4, true);
    expect("by element, fp32", floats.of(shared_read), 4, 4 * 4, true);
    CHECK(each.of(shared_read).merged_requests[2] == 1 && each.of(shared_read).merged_cost[2] == 4);
    CHECK(each.of(shared_read).merged_requests[0] == 4 && each.of(shared_read).merged_cost[0] == 4 * 4);

    const Profile copies("copy_kernel", 32, copy_kernel);
    expect("cp.async", copies.of(shared_write), 1, 1, true);
    CHECK(copies.of(global_read, "x").bytes == 3 * 16 + 8 && copies.of(global_read, "x").sectors == 2);
}

void check_order() {
    const Profile ragged("ragged_kernel", 32, ragged_kernel);
    expect("ragged loops", ragged.of(global_read, "x"), 32, 32 * 4);
    CHECK(ragged.of(global_read, "x").lanes == 32 * 20);
    expect("stores behind them", ragged.of(global_write, "y"), 1, 4);

    const Profile branches("branch_kernel", 32, branch_kernel);
    expect("both sides of a branch", branches.of(global_read, "x"), 2, 8);
    expect("behind the branch", branches.of(global_write, "y"), 1, 4);

    const Profile skip("skip_kernel", 32, skip_kernel);
    CHECK(skip.of(global_read, "x").requests == 7 && skip.of(global_read, "x").lanes == 96);
    CHECK(skip.of(global_write, "y").requests == 7);

    const Profile called("call_kernel", 32, call_kernel);
    expect("a function's loop", called.of(global_read, "x"), 8, 8 * 4);
    CHECK(called.of(global_read, "x").lanes == 4 * 48);
    expect("behind the function", called.of(global_write, "y"), 1, 4);

    const Profile atomics("atomic_kernel", 32, atomic_kernel);
    expect("shared atomics", atomics.of(shared_atomic), 1, 8, true);
    expect("global atomics", atomics.of(global_atomic, "y"), 1, 1);
    CHECK(atomics.of(global_atomic, "y").lanes == 16);
    expect("behind the atomics of half the lanes", atomics.of(global_write, "y"), 1, 4);
}

}  // namespace

int main() {
    for (uint64_t seed : {0, 1, 2}) {
        hostsim::set_seed(seed);
        check_global();
        check_shared();
        check_order();
    }
    return finish();
}
