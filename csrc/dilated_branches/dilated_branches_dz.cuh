// What lies between dy and the products of the backward: dz = dy * mask * multiplier, with the sums that the gradients
// of gain, bias and batch statistics are made of; and the gradient of the image bias. All bound by bandwidth.
#pragma once

#include "dilated_branches/dilated_branches.h"
#include "dilated_branches/slab.cuh"

namespace pk {

/// Owns: a CTA owns 64 pixels and 64 channels of one branch; a thread takes V channels of every 32nd (fp32: 16th)
/// pixel. Sums over pixels: a thread's own, then lanes of a warp, then warps, in this order. Grid: x CTAs of pixels, y
/// CTAs of channels of all branches.
template <class T>
__global__ void __launch_bounds__(Slab<T>::THREADS)
    dilated_branches_bwd_dz_kernel(const __grid_constant__ DilatedBranchesBwdDzParams p) {
    using S = Slab<T>;
    constexpr int V = S::V, WARPS = S::THREADS / 32;
    __shared__ long long s_dy_at[S::PIXELS], s_saved_at[S::PIXELS];
    __shared__ SlabNorm<T> s_norm;
    __shared__ __align__(16) float s_share[S::CHANNELS], s_mean_g[S::CHANNELS];
    T* s_dy = shared_memory<T>();
    T* s_saved = s_dy + S::COPY;
    __shared__ float s_sums[WARPS][2][S::CHANNELS];
    const Extent map = p.branches.map;
    const int b = branch_of(p.first_block, p.branches.count, blockIdx.y), thread = threadIdx.x;
    const Branch& branch = p.branches.branch[b];
    const int o0 = (blockIdx.y - p.first_block[b]) * S::CHANNELS, first = branch.first + o0;
    const long long p0 = 1LL * blockIdx.x * S::PIXELS, all = 1LL * map.n * map.h * map.w;
    const S slab{static_cast<int>(smaller<long long>(S::PIXELS, all - p0)), smaller(S::CHANNELS, branch.shape.o - o0)};

    // Prologue: where the pixels are, what the channels are multiplied by.
    const int out0 = p.sum ? o0 : first, saved0 = p.kept ? first : out0;
    S::locate(thread, p0, map, p.dy_n, p.dy_h, p.dy_w, s_dy_at);
    if (p.saved) S::locate(thread - 64, p0, map, p.s_n, p.s_h, p.s_w, s_saved_at);
    s_norm.fill(thread - 128, branch.norm, o0, slab.channels);
    if (const int c = thread - 192; c >= 0 && c < slab.channels) {
        s_share[c] = p.sums ? p.sums[first + c] / all : 0;
        s_mean_g[c] = p.sums ? p.sums[p.branches.channels + first + c] / all : 0;
    }
    __syncthreads();
    const T* g_dy = static_cast<const T*>(p.dy) + out0 * p.dy_c;
    const T* g_saved = static_cast<const T*>(p.saved) + saved0 * p.s_c;
    const bool dy_vectors = slab.in_vectors(g_dy, p.dy_n, p.dy_c, p.dy_h, p.dy_w);
    const bool saved_vectors = !p.saved || slab.in_vectors(g_saved, p.s_n, p.s_c, p.s_h, p.s_w);
    if (!dy_vectors) slab.copy(g_dy, s_dy_at, p.dy_c, p.dy_c <= p.dy_w, s_dy);
    if (!saved_vectors) slab.copy(g_saved, s_saved_at, p.s_c, p.s_c <= p.s_w, s_saved);
    if (!dy_vectors || !saved_vectors) __syncthreads();

    const int c0 = S::channel();
    float weighted[V] = {}, plain[V] = {};
    if (c0 < slab.channels) {
        Vec<T> dy[S::EACH], saved[S::EACH] = {};
        slab.take(g_dy, s_dy_at, s_dy, dy_vectors, dy);
        if (p.saved) slab.take(g_saved, s_saved_at, s_saved, saved_vectors, saved);
        T* g_dz = static_cast<T*>(p.dz) + p0 * p.branches.channels + first + c0;
        const bool aligned = is_aligned(g_dz, 16, p.branches.channels * static_cast<int>(sizeof(T)));
#pragma unroll
        for (int i = 0; i < S::EACH; ++i) {
            if (S::pixel(i) >= slab.pixels) break;
            Vec<T> dz;
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const int c = c0 + v;
                const float deviation = s_norm.deviation[c], gain = s_norm.gain[c];
                float g = widen(dy[i][v]), normal = g;
                const float kept = p.saved ? widen(saved[i][v]) : 1;
                if (p.kept) normal = (kept - s_norm.mean[c]) * deviation;
                if (p.relu && (p.kept ? normal * gain + s_norm.bias[c] : kept) <= 0)
                    g = 0;  // where it is NaN, g passes
                weighted[v] += p.kept ? g * normal : 0;
                plain[v] += g;
                if (p.sums) g = g - s_mean_g[c] - normal * s_share[c];
                dz[v] = narrow<T>(g * (gain * deviation));
            }
            if (p.dz) store_vec(g_dz + 1LL * S::pixel(i) * p.branches.channels, dz, slab.channels - c0, aligned, 1);
        }
    }
    if (!p.part) return;

    // Epilogue: the CTA's sums of each channel.
#pragma unroll
    for (int v = 0; v < V; ++v) {
        for (int step = S::LANES; step < 32; step *= 2) {
            weighted[v] += __shfl_xor_sync(~0u, weighted[v], step);
            plain[v] += __shfl_xor_sync(~0u, plain[v], step);
        }
        if (thread % 32 < S::LANES) {
            s_sums[thread / 32][0][c0 + v] = weighted[v];
            s_sums[thread / 32][1][c0 + v] = plain[v];
        }
    }
    __syncthreads();
    const int which = thread / S::CHANNELS, channel = thread % S::CHANNELS;
    if (which > 1 || channel >= slab.channels) return;
    float sum = 0;
    for (int warp = 0; warp < WARPS; ++warp) sum += s_sums[warp][which][channel];
    p.part[(2LL * blockIdx.x + which) * p.branches.channels + first + channel] = sum;
}

/// Partial sums [tiles, length] -> [length]. Owns: a block owns 32 sums; eight threads share one, each with every
/// eighth tile, and are added in order.
__global__ void __launch_bounds__(256)
    dilated_branches_bwd_sums_kernel(const __grid_constant__ DilatedBranchesSumsParams p) {
    __shared__ float s_sums[8][32];
    const int lane = threadIdx.x % 32, part = threadIdx.x / 32, i = blockIdx.x * 32 + lane;
    float sum = 0;
    if (i < p.length)
        for (int tile = part; tile < p.tiles; tile += 8) sum += p.part[1LL * tile * p.length + i];
    s_sums[part][lane] = sum;
    __syncthreads();
    if (part != 0 || i >= p.length) return;
    for (int other = 1; other < 8; ++other) sum += s_sums[other][lane];
    p.sums[i] = sum;
}

/// The image bias's gradient: dz summed over the pixels whose tap lies inside the map. Owns: a CTA owns 64 channels of
/// one tap of one image; a thread takes V channels of every 32nd (fp32: 16th) pixel, and rows are added in order.
template <class T>
__global__ void __launch_bounds__(Slab<T>::THREADS)
    dilated_branches_bwd_dimage_kernel(const __grid_constant__ DilatedBranchesBwdDimageParams p) {
    using S = Slab<T>;
    constexpr int V = S::V;
    __shared__ float s_sums[S::ROWS][S::CHANNELS];
    const int taps = p.shape.side * p.shape.side, tap = blockIdx.x % taps, image = blockIdx.x / taps;
    const int thread = threadIdx.x, row = thread / S::LANES, c0 = S::channel(), o0 = blockIdx.y * S::CHANNELS;
    const TapRectangle area(p.map, p.shape, tap);
    const T* g_dz = static_cast<const T*>(p.dz) + image * p.dz_n + o0 + c0;
    constexpr int bytes = sizeof(T);
    const bool aligned = is_aligned(g_dz, 16, p.dz_h * bytes, p.dz_w * bytes);
    const int count = p.shape.o - o0 - c0;
    float sums[V] = {};
    for (int x = row, y = 0; count > 0 && area.cols > 0; x += S::ROWS) {
        for (; x >= area.cols; x -= area.cols) ++y;
        if (y >= area.rows) break;
        const Vec<T> dz =
            load_vec<V>(g_dz + (area.y0 + y) * p.dz_h + (area.x0 + x) * p.dz_w, count, aligned, 1, narrow<T>(0.f));
#pragma unroll
        for (int v = 0; v < V; ++v) sums[v] += widen(dz[v]);
    }
#pragma unroll
    for (int v = 0; v < V; ++v) s_sums[row][c0 + v] = sums[v];
    __syncthreads();
    const int o = o0 + thread;
    if (thread >= S::CHANNELS || o >= p.shape.o) return;
    float sum = 0;
    for (int other = 0; other < S::ROWS; ++other) sum += s_sums[other][thread];
    static_cast<T*>(p.dimage)[(1LL * image * p.shape.o + o) * taps + tap] = narrow<T>(sum);
}

}  // namespace pk
