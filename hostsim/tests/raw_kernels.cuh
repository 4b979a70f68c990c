// One wrapper of common/ptx per kernel on raw bits: registers or an image of shared memory in, the same out.
#pragma once

#include "hostsim/tests/ptx_kernels.cuh"

namespace pk {

enum class Mma { f16, bf16, tf32 };

/// r (32, 6): a and b of each lane; d (32, 4), changed.
template <Mma Kind>
__global__ void raw_mma_kernel(const uint32_t* g_r, float* g_d) {
    const uint32_t* r = g_r + threadIdx.x * 6;
    float d[4];
    for (int i = 0; i < 4; ++i) d[i] = g_d[threadIdx.x * 4 + i];
    if constexpr (Kind == Mma::f16) mma_m16n8k16<half>(d, r, r + 4);
    if constexpr (Kind == Mma::bf16) mma_m16n8k16<bf16>(d, r, r + 4);
    if constexpr (Kind == Mma::tf32) mma_m16n8k8_tf32(d, r, r + 4);
    for (int i = 0; i < 4; ++i) g_d[threadIdx.x * 4 + i] = d[i];
}

/// image (32, 16) bytes, of which lane i addresses row rows[i]; r (32, 4). Load r, or store it and copy the image out.
template <bool Store, bool Transposed>
__global__ void raw_matrix_kernel(uint32_t* g_image, const int* g_rows, uint32_t* g_r) {
    uint32_t* s_image = shared_memory<uint32_t>();
    const int lane = static_cast<int>(threadIdx.x);
    for (int i = 0; i < 4; ++i) s_image[lane * 4 + i] = g_image[lane * 4 + i];
    __syncwarp();
    uint32_t r[4];
    uint32_t* s_row = s_image + g_rows[lane] * 4;
    if constexpr (Store) {
        for (int i = 0; i < 4; ++i) r[i] = g_r[lane * 4 + i];
        if constexpr (Transposed) {
            stmatrix_x4_trans(s_row, r);
        } else {
            stmatrix_x4(s_row, r);
        }
        __syncwarp();
        for (int i = 0; i < 4; ++i) g_image[lane * 4 + i] = s_image[lane * 4 + i];
    } else {
        if constexpr (Transposed) {
            ldmatrix_x4_trans(r, s_row);
        } else {
            ldmatrix_x4(r, s_row);
        }
        for (int i = 0; i < 4; ++i) g_r[lane * 4 + i] = r[i];
    }
}

/// 17 rows of 16 bytes: row i gets the first i of x and zeros; in two groups.
__global__ void raw_copy_kernel(const unsigned char* g_x, unsigned char* g_y) {
    unsigned char* s_x = shared_memory<unsigned char>();
    const int i = static_cast<int>(threadIdx.x);
    if (i < 17) cp_async_16(s_x + 16 * i, g_x + 16 * i, i);
    cp_async_commit();
    cp_async_commit();
    cp_async_wait<1>();
    for (int j = 0; j < 16 && i < 17; ++j) g_y[16 * i + j] = s_x[16 * i + j];
}

__global__ void raw_tf32_kernel(const float* g_x, uint32_t* g_y) { g_y[threadIdx.x] = to_tf32(g_x[threadIdx.x]); }

template <class T>
__global__ void raw_max_kernel(const Vec<T, 2>* g_x, const Vec<T, 2>* g_y, Vec<T, 2>* g_larger) {
    g_larger[threadIdx.x] = max_nan(g_x[threadIdx.x], g_y[threadIdx.x]);
}

/// An image of shared memory through one wgmma: operands a and b name offsets in it; d (128, N / 2), changed.
template <int N, class T, bool AIsMMajor, bool BIsNMajor>
__global__ void __launch_bounds__(128)
    raw_wgmma_kernel(const uint32_t* g_image, int words, uint64_t a, uint64_t b, bool accumulate, float* g_d) {
    const uint32_t start = aligned_start();
    uint32_t* s_image = shared_memory<uint32_t>() + (start - shared_address(shared_memory<char>())) / 4;
    for (int i = static_cast<int>(threadIdx.x); i < words; i += 128) s_image[i] = g_image[i];
    fence_proxy_async_shared();
    __syncthreads();
    float d[N / 2];
    for (int i = 0; i < N / 2; ++i) d[i] = g_d[threadIdx.x * (N / 2) + i];
    wgmma_fence();
    wgmma<N, T, AIsMMajor, BIsNMajor>(d, a + (start >> 4), b + (start >> 4), accumulate);
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < N / 2; ++i) g_d[threadIdx.x * (N / 2) + i] = d[i];
}

/// Three warpgroups of 168 registers give some to each other and meet by name: y (3) counts the elected lanes of each.
__global__ void __launch_bounds__(384, 1) steering_kernel(int* g_y) {
    using Registers = RegisterSplit<40, 128, 232, 256>;
    __shared__ int s_count[3];
    wait_for_earlier_grids();
    const int group = static_cast<int>(threadIdx.x) / 128;
    if (threadIdx.x < 3) s_count[threadIdx.x] = 0;
    __syncthreads();
    if (group == 0) {
        Registers::few();
        if (elect_one()) atomicAdd(&s_count[0], 1);
        barrier_arrive<1, 384>();
    } else {
        Registers::many();
        if (elect_one()) atomicAdd(&s_count[group], 1);
        barrier_sync<2, 256>();
        barrier_sync<1, 384>();
        if (threadIdx.x >= 381) g_y[threadIdx.x - 381] = s_count[threadIdx.x - 381];
    }
    let_later_grids_begin();
}

}  // namespace pk
