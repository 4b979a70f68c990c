// Kernels of a few lines around the wrappers of common/ptx.
#pragma once

#include "common/ptx/cluster.cuh"
#include "common/ptx/cp_async.cuh"
#include "common/ptx/fence.cuh"
#include "common/ptx/ldmatrix.cuh"
#include "common/ptx/max.cuh"
#include "common/ptx/mbarrier.cuh"
#include "common/ptx/mma.cuh"
#include "common/ptx/tma.cuh"
#include "common/ptx/warp.cuh"
#include "common/ptx/wgmma.cuh"

namespace pk {

/// The first address in dynamic shared memory that is a multiple of 1024.
__device__ __forceinline__ uint32_t aligned_start() {
    return (shared_address(shared_memory<char>()) + 1023) / 1024 * 1024;
}

/// One warp: c (16, 8) = a (16, 32) b (8, 32) transposed, staged by cp.async, the second half of k after the first.
template <class T>
__global__ void mma_kernel(const T* g_a, const T* g_b, float* g_c) {
    T* s_a = shared_memory<T>();  // [2][16][16]
    T* s_b = s_a + 2 * 16 * 16;   // [2][16][16], rows 8 to 15 zero
    const int lane = static_cast<int>(threadIdx.x);
    for (int step = 0; step < 2; ++step) {
        const int row = lane / 2, half = lane % 2 * 8;
        cp_async_16(s_a + step * 256 + row * 16 + half, g_a + row * 32 + step * 16 + half, 16);
        const bool exists = row < 8;
        cp_async_16(s_b + step * 256 + row * 16 + half, exists ? g_b + row * 32 + step * 16 + half : g_b,
                    exists ? 16 : 0);
        cp_async_commit();
    }
    float r_c[4] = {};
    for (int step = 0; step < 2; ++step) {
        if (step == 0) {
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncwarp();
        uint32_t r_a[4], r_b[4];
        ldmatrix_x4(r_a, s_a + step * 256 + (lane % 16) * 16 + lane / 16 * 8);
        ldmatrix_x4(r_b, s_b + step * 256 + (lane % 8 + lane / 16 * 8) * 16 + lane / 8 % 2 * 8);
        mma_m16n8k16<T>(r_c, r_a, r_b);
        if (step == 1 && (r_b[2] | r_b[3])) r_c[0] = 1e9f;  // cp.async fills with zeros
    }
    for (int i = 0; i < 4; ++i) g_c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = r_c[i];
}

/// Bulk-load a box, copy it out in the order of shared memory, bulk-store it elsewhere.
template <int Rank>
__global__ void box_kernel(const __grid_constant__ TensorMap from, const __grid_constant__ TensorMap to, int bytes,
                           const int* g_at, unsigned char* g_box) {
    __shared__ uint64_t s_barrier;
    const uint32_t box = aligned_start(), barrier = shared_address(&s_barrier);
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        fence_mbarrier_init();
        if constexpr (Rank == 3) {
            mbarrier_expect(barrier, static_cast<uint32_t>(bytes));
            mbarrier_arrive(barrier);
        } else {
            mbarrier_arrive_expect(barrier, static_cast<uint32_t>(bytes));
        }
        prefetch_tensor_map(from);
        if constexpr (Rank == 2) tma_load(box, from, barrier, g_at[0], g_at[1]);
        if constexpr (Rank == 3) tma_load(box, from, barrier, g_at[0], g_at[1], g_at[2]);
        if constexpr (Rank == 4) tma_load(box, from, barrier, g_at[0], g_at[1], g_at[2], g_at[3]);
        if constexpr (Rank == 5) tma_load(box, from, barrier, g_at[0], g_at[1], g_at[2], g_at[3], g_at[4]);
    }
    __syncthreads();
    if constexpr (Rank == 3) {
        while (!mbarrier_test(barrier, 0)) {
        }
    } else {
        mbarrier_wait(barrier, 0);
    }
    const char* s_box = shared_memory<char>() + (box - shared_address(shared_memory<char>()));
    for (int i = static_cast<int>(threadIdx.x); i < bytes; i += static_cast<int>(blockDim.x)) g_box[i] = s_box[i];
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_invalidate(barrier);
        if constexpr (Rank == 2) tma_store(to, box, g_at[0], g_at[1]);
        if constexpr (Rank == 3) tma_store(to, box, g_at[0], g_at[1], g_at[2]);
        if constexpr (Rank == 4) tma_store(to, box, g_at[0], g_at[1], g_at[2], g_at[3]);
        if constexpr (Rank == 5) tma_store(to, box, g_at[0], g_at[1], g_at[2], g_at[3], g_at[4]);
        tma_store_commit();
        tma_store_wait_read<0>();
        tma_store_wait<0>();
    }
}

/// A cluster of two: each block loads one half of the box for both, then tells the other through its barrier.
__global__ void multicast_kernel(const __grid_constant__ TensorMap map, float* g_box) {
    __shared__ uint64_t s_full, s_told;
    const uint32_t box = aligned_start(), full = shared_address(&s_full), told = shared_address(&s_told);
    const uint32_t rank = cluster_rank();
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        mbarrier_init(told, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(full, 2 * 16 * 32 * 4);
    }
    cluster_arrive();
    cluster_wait();
    if (threadIdx.x < 32 && elect_one())
        tma_load_multicast(box + rank * 16 * 32 * 4, map, full, 3, 0, static_cast<int>(rank) * 16);
    mbarrier_wait(full, 0);
    const float* s_box = shared_memory<float>() + (box - shared_address(shared_memory<float>())) / 4;
    for (int i = static_cast<int>(threadIdx.x); i < 2 * 16 * 32; i += static_cast<int>(blockDim.x))
        g_box[blockIdx.x * 2 * 16 * 32 + i] = s_box[i];
    barrier_sync<1, 64>();
    if (threadIdx.x == 0) mbarrier_arrive_cluster(map_to_block(told, rank ^ 1));
    mbarrier_wait(told, 0);
    cluster_arrive();
    cluster_wait();
}

/// A warpgroup: d (64, N) = a b over `steps` k-chunks of 64, tiles loaded by the copy engine.
/// K-major: a (64, K), b (N, K). MN-major: a (K, 64), b (K, N); their boxes are 64 wide.
template <class T, int N, bool MnMajor>
__global__ void wgmma_kernel(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, int steps,
                             float* g_d) {
    constexpr uint32_t a_bytes = 64 * 64 * 2, b_bytes = N * 64 * 2;
    __shared__ uint64_t s_barrier;
    const uint32_t s_a = aligned_start(), s_b = s_a + a_bytes, barrier = shared_address(&s_barrier);
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    float r_d[N / 2];
    for (int step = 0; step < steps; ++step) {
        if (threadIdx.x == 0) {
            mbarrier_arrive_expect(barrier, a_bytes + b_bytes);
            if (MnMajor) {
                tma_load(s_a, a, barrier, 0, step * 64);
                for (int n = 0; n < N; n += 64)
                    tma_load(s_b + static_cast<uint32_t>(n) * 128, b, barrier, n, step * 64);
            } else {
                tma_load(s_a, a, barrier, step * 64, 0);
                tma_load(s_b, b, barrier, step * 64, 0);
            }
        }
        mbarrier_wait(barrier, static_cast<uint32_t>(step & 1));
        wgmma_fence();
        for (int k = 0; k < 4; ++k) {
            const bool more = step > 0 || k > 0;
            if constexpr (MnMajor) {
                const auto at = static_cast<uint32_t>(k) * 16 * 128;
                wgmma<N, T, true, true>(r_d, wgmma_operand(s_a + at, 8192, 1024, Swizzle::b128),
                                        wgmma_operand(s_b + at, 8192, 1024, Swizzle::b128), more);
            } else {
                const auto at = static_cast<uint32_t>(k) * 32;
                wgmma<N, T>(r_d, wgmma_operand(s_a + at, 0, 1024, Swizzle::b128),
                            wgmma_operand(s_b + at, 0, 1024, Swizzle::b128), more);
            }
        }
        wgmma_commit();
        wgmma_wait<0>();
        __syncthreads();
    }
    const int lane = static_cast<int>(threadIdx.x) % 32, first = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
    for (int i = 0; i < N / 2; ++i) g_d[(first + i / 2 % 2 * 8) * N + i / 4 * 8 + lane % 4 * 2 + i % 2] = r_d[i];
}

/// d (64, 128) = a b^T in two accumulators of 64 columns that take turns, each product waited for one turn later.
/// a (64, 256), b (128, 256), loaded whole.
__global__ void turns_kernel(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* g_d) {
    constexpr uint32_t a_bytes = 64 * 64 * 2, b_bytes = 128 * 64 * 2;
    __shared__ uint64_t s_barrier;
    const uint32_t s_a = aligned_start(), s_b = s_a + 4 * a_bytes, barrier = shared_address(&s_barrier);
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(barrier, 4 * (a_bytes + b_bytes));
        for (int step = 0; step < 4; ++step) {
            tma_load(s_a + static_cast<uint32_t>(step) * a_bytes, a, barrier, step * 64, 0);
            tma_load(s_b + static_cast<uint32_t>(step) * b_bytes, b, barrier, step * 64, 0);
        }
    }
    __syncthreads();
    mbarrier_wait(barrier, 0);
    float r_d[2][32];
    wgmma_fence();
    for (uint32_t k = 0; k < 16; ++k) {
        const uint32_t at = k / 4 * a_bytes + k % 4 * 32, to = k / 4 * b_bytes + k % 4 * 32;
        const uint64_t left = wgmma_operand(s_a + at, 0, 1024, Swizzle::b128);
        wgmma<64, bf16>(r_d[0], left, wgmma_operand(s_b + to, 0, 1024, Swizzle::b128), k > 0);
        wgmma_commit();
        wgmma<64, bf16>(r_d[1], left, wgmma_operand(s_b + to + 64 * 128, 0, 1024, Swizzle::b128), k > 0);
        wgmma_commit();
        wgmma_wait<1>();
    }
    wgmma_wait<0>();
    const int lane = static_cast<int>(threadIdx.x) % 32, first = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
    for (int i = 0; i < 64; ++i)
        g_d[(first + i / 2 % 2 * 8) * 128 + i / 4 * 8 + lane % 4 * 2 + i % 2] = r_d[i / 32][i % 32];
}

}  // namespace pk
