// Kernels that are right, or have one fault planted at compile time.
#pragma once

#include "common/ptx/cp_async.cuh"
#include "common/ptx/fence.cuh"
#include "common/ptx/flag.cuh"
#include "common/ptx/ldmatrix.cuh"
#include "common/ptx/mbarrier.cuh"
#include "common/ptx/tma.cuh"
#include "common/ptx/warp.cuh"
#include "common/ptx/wgmma.cuh"

namespace pk {

enum class Fault {
    none,
    // In the ring.
    swizzle,
    misaligned_tile,
    k_advance,
    stride,
    few_bytes,
    many_bytes,
    early_release,
    no_empty_wait,
    no_full_wait,
    stuck_parity,
    arrive_count,
    no_wgmma_fence,
    no_wgmma_wait,
    early_read,
    no_init_barrier,
    no_init_fence,
    no_grid_wait,
    // In the transpose.
    no_barrier,
    divergent_barrier,
    past_the_end,
    unwritten,
    out_of_bounds,
    no_copy_wait,
    untransposed,
    no_proxy_fence,
    no_syncwarp,
    missing_lane,
    // In the panel.
    no_store_wait,
    no_panel_barrier,
    no_panel_fence,
    // Between blocks.
    flag_left_up,
};

constexpr int stages = 2, steps = 6, tile_bytes = 64 * 64 * 2;

/// d (64, 64) = a b^T over `steps` chunks of 64: warp 4 loads a ring of stages, warps 0 to 3 multiply.
template <Fault F>
__global__ void ring_kernel(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* g_d) {
    __shared__ uint64_t s_full[stages], s_empty[stages];
    constexpr uint32_t shift = F == Fault::misaligned_tile ? 128 : 0;
    const uint32_t tiles = (shared_address(shared_memory<char>()) + 1023) / 1024 * 1024 + shift;
    const uint32_t full = shared_address(s_full), empty = shared_address(s_empty);
    if (threadIdx.x == 0) {
        for (uint32_t s = 0; s < stages; ++s) {
            mbarrier_init(full + 8 * s, 1);
            mbarrier_init(empty + 8 * s, F == Fault::arrive_count ? 5 : 4);
        }
        if (F != Fault::no_init_fence) fence_mbarrier_init();
    }
    if (F != Fault::no_init_barrier) __syncthreads();
    if (F != Fault::no_grid_wait) wait_for_earlier_grids();
    if (threadIdx.x >= 128) {
        if (!elect_one()) return;
        for (int step = 0; step < steps; ++step) {
            const uint32_t stage = static_cast<uint32_t>(step) % stages, round = static_cast<uint32_t>(step) / stages;
            const uint32_t s_a = tiles + stage * 2 * tile_bytes, s_b = s_a + tile_bytes;
            if (F != Fault::no_empty_wait)
                mbarrier_wait(empty + 8 * stage, F == Fault::stuck_parity ? 0 : (round & 1) ^ 1);
            const uint32_t bytes =
                2 * tile_bytes - (F == Fault::few_bytes ? 128 : 0) + (F == Fault::many_bytes ? 128 : 0);
            mbarrier_arrive_expect(full + 8 * stage, bytes);
            tma_load(s_a, a, full + 8 * stage, step * 64, 0);
            tma_load(s_b, b, full + 8 * stage, step * 64, 0);
        }
        return;
    }
    constexpr Swizzle swizzle = F == Fault::swizzle ? Swizzle::b64 : Swizzle::b128;
    constexpr uint32_t stride = F == Fault::stride ? 512 : 1024, advance = F == Fault::k_advance ? 64 : 32;
    float r_d[32];
    for (int step = 0; step < steps; ++step) {
        const uint32_t stage = static_cast<uint32_t>(step) % stages, round = static_cast<uint32_t>(step) / stages;
        const uint32_t s_a = tiles + stage * 2 * tile_bytes, s_b = s_a + tile_bytes;
        if (F != Fault::no_full_wait) mbarrier_wait(full + 8 * stage, round & 1);
        if (F != Fault::no_wgmma_fence || step > 0) wgmma_fence();
        for (uint32_t k = 0; k < 4; ++k)
            wgmma<64, bf16>(r_d, wgmma_operand(s_a + k * advance, 0, stride, swizzle),
                            wgmma_operand(s_b + k * advance, 0, stride, swizzle), step > 0 || k > 0);
        wgmma_commit();
        if (F == Fault::early_release && threadIdx.x % 32 == 0) mbarrier_arrive(empty + 8 * stage);
        if (F == Fault::early_read && step == steps - 1) g_d[0] = r_d[0];
        if (F != Fault::no_wgmma_wait || step < steps - 1) wgmma_wait<0>();
        if (F != Fault::early_release && threadIdx.x % 32 == 0) mbarrier_arrive(empty + 8 * stage);
    }
    const int lane = static_cast<int>(threadIdx.x) % 32, first = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
    for (int i = F == Fault::early_read && threadIdx.x == 0 ? 1 : 0; i < 32; ++i)
        g_d[(first + i / 2 % 2 * 8) * 64 + i / 4 * 8 + lane % 4 * 2 + i % 2] = r_d[i];
}

/// y (8, 8 * 64) = x (8 * 64, 8) transposed, one 8 x 8 matrix per step through shared memory, by two warps.
template <Fault F>
__global__ void transpose_kernel(const __grid_constant__ TensorMap y, const half* g_x) {
    const uint32_t start = shared_address(shared_memory<char>()) % 128;
    half* s_x = shared_memory<half>() + (128 - start) % 128 / 2;  // [64][8][8]
    const int i = static_cast<int>(threadIdx.x), warp = i / 32, lane = i % 32;
    cp_async_16(s_x + i * 64, g_x + i * 64 + (F == Fault::out_of_bounds && i == 63 ? 64 : 0), 16);
    for (int row = 1; row < 8; ++row) cp_async_16(s_x + i * 64 + row * 8, g_x + i * 64 + row * 8, 16);
    cp_async_commit();
    if (F != Fault::no_copy_wait) cp_async_wait<0>();
    if (F == Fault::divergent_barrier && warp == 1) {
        __syncthreads();
    } else if (F != Fault::no_barrier) {
        __syncthreads();
    }
    uint32_t r[4];
    for (int m = 4 * (1 - warp); m < 64; m += 8) {
        const half* s_row = s_x + m * 64 + lane * 8;
        if (F == Fault::missing_lane && lane == 31 && m == 0) continue;
        if (F == Fault::untransposed) {
            ldmatrix_x4(r, s_row);
        } else {
            ldmatrix_x4_trans(r, s_row);
        }
        stmatrix_x4(s_x + m * 64 + (lane + (F == Fault::past_the_end && m == 60 ? 1 : 0)) * 8, r);
    }
    if (F != Fault::no_proxy_fence) fence_proxy_async_shared();
    __syncthreads();
    if (i < 32 && elect_one())
        for (int m = 0; m < 64 - (F == Fault::unwritten ? 1 : 0); ++m)
            tma_store(y, shared_address(s_x + m * 64), m * 8, 0);
    tma_store_commit();
    tma_store_wait<0>();
}

/// y (steps, 8, 8) = x through one panel of shared memory, written again once the store before has read it.
template <Fault F>
__global__ void panel_kernel(const __grid_constant__ TensorMap y, const int* g_x) {
    const uint32_t start = shared_address(shared_memory<char>()) % 128;
    int* s_panel = shared_memory<int>() + (128 - start) % 128 / 4;  // [8][8]
    const int i = static_cast<int>(threadIdx.x);
    for (int step = 0; step < steps; ++step) {
        if (F != Fault::no_store_wait && i == 0) tma_store_wait_read<0>();
        if (F != Fault::no_panel_barrier) __syncthreads();
        s_panel[i] = g_x[step * 64 + i];
        if (F != Fault::no_panel_fence) fence_proxy_async_shared();
        __syncthreads();
        if (i != 0) continue;
        tma_store(y, shared_address(s_panel), 0, 8 * step);
        tma_store_commit();
    }
    if (i == 0) tma_store_wait<0>();
}

/// y = x with neighbouring lanes exchanged, through shared memory.
template <Fault F>
__global__ void neighbour_kernel(const int* g_x, int* g_y) {
    __shared__ int s_x[32];
    s_x[threadIdx.x] = g_x[threadIdx.x];
    if (F != Fault::no_syncwarp) __syncwarp();
    g_y[threadIdx.x] = s_x[threadIdx.x ^ 1];
}

/// Block 0 hands block 1 a number: y[1] = y[0].
template <Fault F>
__global__ void flag_kernel(uint64_t* g_flag, uint64_t epoch, int* g_y) {
    if (blockIdx.x == 0) {
        g_y[0] = 7;
        store_release(g_flag, epoch);
    } else {
        wait_for_flag(g_flag, epoch);
        if (F != Fault::flag_left_up) *g_flag = 0;
        g_y[1] = g_y[0];
    }
}

}  // namespace pk
