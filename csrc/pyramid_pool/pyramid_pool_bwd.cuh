// Backward of pyramid_pool: every element of dx is written by the one block that owns it; nothing is added atomically.
//
// Averages have one gradient per rectangle that no window's edge crosses: the sum over the few cells that hold it.
// Channels innermost: a block owns one image, a slab of 128 bytes of channels and a band of rows; its warps take
// rectangles, 8 lanes x 16 bytes of channels, 4 lanes of pixels. NCHW: a block owns some planes and a band of rows,
// fills runs of rows in shared memory from the rectangles' gradients (<= 32 KB), and writes them in 16-byte pieces.
// Maxima: a block writes zeros over what it owns and then, per pixel that won a cell, the sum over the cells it won.
// Grid: x = (group * bands + band) as in the forward pass. Bound by the write of dx.
#pragma once

#include "pyramid_pool/cells.cuh"

namespace pk::pool {

/// Dynamic shared memory of a backward block, in bytes: gradients of rectangles, then a run of rows; none for slabs.
template <class T, bool Max>
struct BwdShared {
    int stage, size;

    PK_HD explicit BwdShared(const Plan& plan) {
        const int rectangles = ceil_div(plan.y.count, plan.bands) * plan.x.count * plan.planes;
        const bool needed = !Max && !plan.inner;
        stage = needed ? static_cast<int>((rectangles * sizeof(Acc<T>) + 15) / 16 * 16) : 0;
        size = needed ? stage + stage_bytes + 16 : 0;
    }
};

/// The planes, or the slab of an image, and the rows that a block owns.
struct Owned {
    int first, count;  // planes, or channels of image n
    int n, u0, u1;     // intervals of rows
    int y0, y1;

    __device__ explicit Owned(const Plan& plan) {
        const int band = blockIdx.x % plan.bands, group = blockIdx.x / plan.bands;
        const int slabs = ceil_div(plan.c, plan.slab);
        n = group / slabs;
        first = plan.inner ? group % slabs * plan.slab : group * plan.planes;
        count = plan.inner ? smaller(plan.slab, plan.c - first) : smaller(plan.planes, plan.n * plan.c - first);
        u0 = first_of(plan.y.count, plan.bands, band), u1 = first_of(plan.y.count, plan.bands, band + 1);
        y0 = plan.y.at(u0), y1 = plan.y.at(u1);
    }
};

__device__ __forceinline__ bool is_contiguous(const PyramidPoolBwdParams& p) {
    return p.sw == 1 && p.sh == p.w && p.sc == p.h * p.w && p.sn == p.c * p.sc;
}

/// The sum over the cells that hold pixel (y, x) of dy / area, for N channels from g_dy on.
template <class T, int N>
__device__ __forceinline__ void gather(const PyramidPoolBwdParams& p, const Plan& plan, const T* g_dy, int y, int x,
                                       int channels, bool aligned, Acc<T> (&g)[N]) {
    for_cells_holding(plan, y, x, [&](int s, long long area) {
        const Vec<T, N> v = load_vec<N>(g_dy + s * p.gs, channels, aligned, p.gc, T(0.0f));
#pragma unroll
        for (int i = 0; i < N; ++i) g[i] += div_rn(widen(v[i]), static_cast<Acc<T>>(area));
    });
}

template <class T>
__device__ void spread_slab(const PyramidPoolBwdParams& p, const Plan& plan, const Owned& own) {
    constexpr int N = vec_size<T>;
    __shared__ int s_next;
    const int lane = threadIdx.x % 32, q_count = plan.x.count;
    const int mine = own.first + lane % 8 * N, channels = plan.c - mine;
    const long long n = own.n;
    const T* g_dy = static_cast<const T*>(p.dy) + n * p.gn + mine * p.gc;
    T* g_dx = static_cast<T*>(p.dx) + n * p.sn + mine * p.sc;
    const bool read = is_aligned(p.dy, 16, p.gn * sizeof(T), p.gs * sizeof(T));
    const bool written = is_aligned(p.dx, 16, p.sn * sizeof(T), p.sh * sizeof(T), p.sw * sizeof(T));
    if (threadIdx.x == 0) s_next = 0;
    __syncthreads();
    const int jobs = (own.u1 - own.u0) * q_count;
    for (int job = next_job(&s_next, lane); job < jobs; job = next_job(&s_next, lane)) {
        const int u = own.u0 + job / q_count, q = job % q_count;
        const int y0 = plan.y.at(u), x0 = plan.x.at(q), width = plan.x.at(q + 1) - x0;
        const int pixels = (plan.y.at(u + 1) - y0) * width;
        Acc<T> g[N] = {};
        gather(p, plan, g_dy, y0, x0, channels, read, g);
        Vec<T, N> v;
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] = narrow<T>(g[i]);
        Walk at(lane / 8, 4, width);
        for (int k = lane / 8; k < pixels; k += 4, at.next())
            store_vec(g_dx + (y0 + at.y) * p.sh + (x0 + at.x) * p.sw, v, channels, written, p.sc);
    }
}

/// Copy staged rows, which start `shift` elements behind s, to `planes` planes from row y on.
template <class T>
__device__ void unstage(const PyramidPoolBwdParams& p, const T* s, int shift, int first, int planes, int y, int rows) {
    constexpr int N = vec_size<T>;
    T* g_dx = static_cast<T*>(p.dx);
    const int c = static_cast<int>(p.c), w = static_cast<int>(p.w), total = planes * rows * w;
    if (!is_contiguous(p)) {
        for (int e = threadIdx.x; e < total; e += threads) {
            const int row = e / w, plane = first + row / rows;
            g_dx[plane / c * p.sn + plane % c * p.sc + (y + row % rows) * p.sh + e % w * p.sw] = s[shift + e];
        }
        return;
    }
    g_dx += (first * p.h + y) * p.w;
    for (int e = static_cast<int>(threadIdx.x) * N - shift; e < total; e += threads * N) {
        if (e >= 0 && e + N <= total) {
            store_vec(g_dx + e, load_vec<N>(s + shift + e, N, true, 1, T(0.0f)), N, true, 1);
        } else {
#pragma unroll 1
            for (int i = larger(e, 0); i < smaller(e + N, total); ++i) g_dx[i] = s[shift + i];
        }
    }
}

template <class T>
__device__ void spread_planes(const PyramidPoolBwdParams& p, const Plan& plan, const Owned& own) {
    using A = Acc<T>;
    A* s_g = shared_memory<A>();
    T* s_stage = shared_at<T>(BwdShared<T, false>(plan).stage);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, q_count = plan.x.count;
    const int per_plane = (own.u1 - own.u0) * q_count;
    for (int i = threadIdx.x; i < own.count * per_plane; i += threads) {
        const int plane = own.first + i / per_plane, rectangle = i % per_plane;
        const long long n = plane / plan.c, c = plane % plan.c;
        const T* g_dy = static_cast<const T*>(p.dy) + n * p.gn + c * p.gc;
        A g[1] = {};
        gather(p, plan, g_dy, plan.y.at(own.u0 + rectangle / q_count), plan.x.at(rectangle % q_count), 1, false, g);
        s_g[i] = g[0];
    }
    const int most_rows = smaller(plan.h, static_cast<int>(stage_bytes / sizeof(T)) / plan.w);
    for (int plane = 0; plane < own.count; plane += plan.staged) {
        const int held = smaller(plan.staged, own.count - plane);
        for (int y = own.y0, u = own.u0; y < own.y1; y += most_rows) {
            const int rows = smaller(most_rows, own.y1 - y);
            while (plan.y.at(u + 1) <= y) ++u;
            const T* g_first = static_cast<T*>(p.dx) + ((own.first + plane) * p.h + y) * p.w;
            const int shift = is_contiguous(p) ? reinterpret_cast<uintptr_t>(g_first) % 16 / sizeof(T) : 0;
            __syncthreads();
            for (int row = warp, interval = u; row < held * rows; row += warps) {
                if (row % rows < warps) interval = u;  // the next plane
                while (plan.y.at(interval + 1) <= y + row % rows) ++interval;
                const A* s_row = s_g + (plane + row / rows) * per_plane + (interval - own.u0) * q_count;
                for (int x = lane, q = 0; x < plan.w; x += 32) {
                    while (plan.x.at(q + 1) <= x) ++q;
                    s_stage[shift + row * plan.w + x] = narrow<T>(s_row[q]);
                }
            }
            __syncthreads();
            unstage(p, s_stage, shift, own.first + plane, held, y, rows);
        }
    }
}

/// Zeros over the rows that a block owns.
template <class T>
__device__ void clear(const PyramidPoolBwdParams& p, const Plan& plan, const Owned& own) {
    constexpr int N = vec_size<T>;
    Vec<T, N> zero;
#pragma unroll
    for (int i = 0; i < N; ++i) zero[i] = T(0.0f);
    T* g_dx = static_cast<T*>(p.dx);
    if (plan.inner) {
        const int lane = threadIdx.x % 8 * N;
        const bool aligned = is_aligned(p.dx, 16, p.sn * sizeof(T), p.sh * sizeof(T), p.sw * sizeof(T));
        g_dx += static_cast<long long>(own.n) * p.sn + (own.first + lane) * p.sc;
        Walk at(threadIdx.x / 8, threads / 8, plan.w);
        for (; own.y0 + at.y < own.y1; at.next())
            store_vec(g_dx + (own.y0 + at.y) * p.sh + at.x * p.sw, zero, own.count - lane, aligned, p.sc);
    } else if (is_contiguous(p)) {
        const long long total = static_cast<long long>(own.y1 - own.y0) * own.count * plan.w;
        g_dx += (own.first * p.h + own.y0) * p.w;
        const int shift = static_cast<int>(reinterpret_cast<uintptr_t>(g_dx) % 16 / sizeof(T));
        for (long long e = static_cast<long long>(threadIdx.x) * N - shift; e < total; e += threads * N) {
            if (e >= 0 && e + N <= total) {
                store_vec(g_dx + e, zero, N, true, 1);
            } else {
#pragma unroll 1
                for (long long i = larger(e, 0LL); i < smaller(e + N, total); ++i) g_dx[i] = zero[0];
            }
        }
    } else {
        for (int plane = own.first; plane < own.first + own.count; ++plane) {
            Walk at(threadIdx.x, threads, plan.w);
            for (; own.y0 + at.y < own.y1; at.next())
                g_dx[plane / plan.c * p.sn + plane % plan.c * p.sc + (own.y0 + at.y) * p.sh + at.x * p.sw] = zero[0];
        }
    }
}

/// The gradient of the pixel that won cell s of channel c, written by the first of the cells that it won.
template <class T>
__device__ void write_winner(const PyramidPoolBwdParams& p, const Plan& plan, const Owned& own, int s, long long n,
                             long long c) {
    const int* g_indices = p.indices + n * p.gn + c * p.gc;
    const T* g_dy = static_cast<const T*>(p.dy) + n * p.gn + c * p.gc;
    const int place = g_indices[s * p.gs], y = place / plan.w, x = place % plan.w;
    if (y < own.y0 || y >= own.y1) return;
    Acc<T> sum = 0;
    bool first = true;
    for_cells_holding(plan, y, x, [&](int other, long long) {
        if (g_indices[other * p.gs] != place) return;
        first = first && other >= s;
        sum += widen(g_dy[other * p.gs]);
    });
    if (first) static_cast<T*>(p.dx)[n * p.sn + c * p.sc + y * p.sh + x * p.sw] = narrow<T>(sum);
}

}  // namespace pk::pool

namespace pk {

template <class T, bool Max, bool Inner>
__global__ void __launch_bounds__(pool::threads, 3)
    pyramid_pool_bwd_dx_kernel(const __grid_constant__ PyramidPoolBwdParams p,
                               const __grid_constant__ pool::Plan plan) {
    const pool::Owned own(plan);
    if constexpr (Max) {
        pool::clear<T>(p, plan, own);
        __syncthreads();  // zeros lie below what follows
        for (long long o = threadIdx.x; o < static_cast<long long>(plan.cells) * own.count; o += pool::threads) {
            const int s = static_cast<int>(o / own.count), plane = own.first + static_cast<int>(o % own.count);
            const long long n = Inner ? own.n : plane / plan.c, c = Inner ? plane : plane % plan.c;
            pool::write_winner<T>(p, plan, own, s, n, c);
        }
    } else if constexpr (Inner) {
        pool::spread_slab<T>(p, plan, own);
    } else {
        pool::spread_planes<T>(p, plan, own);
    }
}

}  // namespace pk
