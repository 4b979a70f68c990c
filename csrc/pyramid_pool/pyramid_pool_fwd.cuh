// Forward of pyramid_pool: x is read once whatever the bins, because rectangles that no window's edge crosses are
// reduced once and then combined per cell.
//
// Channels innermost: a block owns one image, a slab of 128 bytes of channels and a band of rows. Its warps take
// rectangles as they get free: 8 lanes x 16 bytes of channels, 4 lanes of pixels.
// NCHW: a block owns some planes and a band of rows. Runs of whole rows go to shared memory in 16-byte pieces, whatever
// the width; warps take intervals of rows, sum columns and then the columns of each interval.
// Grid: x = (group * bands + band), groups being (image, slab) or runs of planes. With one band the block combines its
// rectangles in shared memory (<= 64 KB) and writes its cells; else they go to global memory and
// pyramid_pool_merge_kernel combines them.
// Bound by the read of x: 1 to 3 operations per element.
#pragma once

#include "pyramid_pool/cells.cuh"

namespace pk::pool {

/// Where a forward block keeps things in dynamic shared memory, in bytes from its start.
template <class T, class R>
struct FwdShared {
    static constexpr int per_lane = smaller(4, vec_size<T>),
                         tile = 32 * per_lane;  // columns that a warp sums at a time
    int values, indices, rows, cols, stage, columns, column_indices, size;

    PK_HD explicit FwdShared(const Plan& plan) {
        const int intervals = ceil_div(plan.y.count, plan.bands) * plan.x.count;
        const int parts = plan.inner ? (plan.split ? 0 : intervals * plan.slab) : intervals * plan.planes;
        const int buffer = plan.inner ? 0 : warps * tile;
        size = 0;
        values = take(parts * sizeof(Acc<T>));
        indices = take(R::has_index ? parts * sizeof(int) : 0);
        rows = take(windows_of(plan.rows, plan.levels) * sizeof(Span));
        cols = take(windows_of(plan.cols, plan.levels) * sizeof(Span));
        stage = take(plan.inner ? 0 : stage_bytes + 16);
        columns = take(buffer * sizeof(Acc<T>));
        column_indices = take(R::has_index ? buffer * sizeof(int) : 0);
    }

  private:
    PK_HD int take(size_t bytes) {
        const int at = size;
        size += static_cast<int>((bytes + 15) / 16 * 16);
        return at;
    }
};

/// One rectangle's pixels for N channels, by four lanes of a warp: those that differ in bits 3 and 4. `whole`: all
/// channels may be read as a vector.
template <class T, class R, int N>
__device__ void reduce_rectangle(const PyramidPoolFwdParams& p, R (&r)[N], const T* g_x, const int (&edge)[4],
                                 int channels, bool whole) {
    constexpr int depth = R::has_index ? 4 : 8;  // vectors under way per lane
    const int part = threadIdx.x % 32 / 8, width = edge[3] - edge[2];
    const int pixels = (edge[1] - edge[0]) * width, w = static_cast<int>(p.w);
    Walk at(part, 4, width);
    for (int k = part; k < pixels; k += 4 * depth) {
        Vec<T, N> v[depth];
        const T* g_pixel[depth];
        int place[depth];
#pragma unroll
        for (int d = 0; d < depth; ++d) {
            const int y = edge[0] + at.y, x = edge[2] + at.x;
            const bool exists = d == 0 || k + 4 * d < pixels;  // or the one before is read again
            g_pixel[d] = exists ? g_x + y * p.sh + x * p.sw : g_pixel[d - 1];
            place[d] = y * w + x;
            at.next();
        }
        load_vecs(v, whole, p.sc, T(0.0f), [&](int d) { return g_pixel[d]; }, [&](int) { return channels; });
#pragma unroll
        for (int d = 0; d < depth; ++d)
            if (k + 4 * d < pixels)
                for (int i = 0; i < N; ++i) r[i].take(widen(v[d][i]), place[d]);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) join_lanes(r[i], 8, 32);
}

/// Write the cells of `count` channels, or planes, whose rectangles lie in shared memory, `step` elements apart, and of
/// channel c from c * across on. place(c): where its cells go. A warp takes a run of them, channels first, so that it
/// seldom looks for a cell: eight at a time.
template <class T, class R, class Place>
__device__ void write_cells(const PyramidPoolFwdParams& p, const Plan& plan, const FwdShared<T, R>& at, int count,
                            int step, int across, Place&& place) {
    const Span *s_rows = shared_at<Span>(at.rows), *s_cols = shared_at<Span>(at.cols);
    const Acc<T>* s_values = shared_at<Acc<T>>(at.values);
    const int* s_indices = shared_at<int>(at.indices);
    const int lane = threadIdx.x % 32, outputs = plan.cells * count, share = ceil_div(outputs, warps * 8) * 8;
    const int begin = threadIdx.x / 32 * share, end = smaller(begin + share, outputs);
    int s = (begin + lane % 8) / count, c = (begin + lane % 8) % count, found = -1;
    Cell cell{};
    for (int first = begin; first < end; first += 8) {
        const bool valid = first + lane % 8 < end;
        if (valid && s != found) cell = find_cell(plan, s, s_rows, s_cols), found = s;
        const R r = combine_cell<R>(plan, cell, s_values + c * across, s_indices + c * across, step);
        if (lane < 8 && valid) store_cell<T>(p, r, cell.area, place(c) + s * p.ys);
        for (c += 8; c >= count; c -= count) ++s;
    }
}

template <class T, class R>
__device__ void pool_slab(const PyramidPoolFwdParams& p, const Plan& plan) {
    constexpr int N = vec_size<T>;
    using A = Acc<T>;
    __shared__ int s_next;
    const FwdShared<T, R> at(plan);
    Span *s_rows = shared_at<Span>(at.rows), *s_cols = shared_at<Span>(at.cols);
    A* s_values = shared_at<A>(at.values);
    int* s_indices = shared_at<int>(at.indices);

    const int lane = threadIdx.x % 32, band = blockIdx.x % plan.bands, group = blockIdx.x / plan.bands;
    const int slabs = ceil_div(plan.c, plan.slab), c0 = group % slabs * plan.slab;
    const long long n = group / slabs;
    const int u0 = first_of(plan.y.count, plan.bands, band), u1 = first_of(plan.y.count, plan.bands, band + 1);
    if (threadIdx.x == 0) s_next = 0;
    if (!plan.split) {
        find_spans(s_rows, plan.rows, plan.levels, plan.y);
        find_spans(s_cols, plan.cols, plan.levels, plan.x);
    }
    __syncthreads();

    const int mine = c0 + lane % 8 * N, channels = plan.c - mine;
    const T* g_x = static_cast<const T*>(p.x) + n * p.sn + mine * p.sc;
    const bool whole =
        channels >= N && p.sc == 1 && is_aligned(p.x, 16, p.sn * sizeof(T), p.sh * sizeof(T), p.sw * sizeof(T));
    const int q_count = plan.x.count;
    for (int job = next_job(&s_next, lane); job < (u1 - u0) * q_count; job = next_job(&s_next, lane)) {
        const int u = u0 + job / q_count, q = job % q_count;
        const int edge[4] = {plan.y.at(u), plan.y.at(u + 1), plan.x.at(q), plan.x.at(q + 1)};
        R r[N];
        reduce_rectangle<T>(p, r, g_x, edge, channels, whole);
        if (lane >= 8) continue;
        const long long rectangle = static_cast<long long>(u) * q_count + q;
        for (int i = 0; i < N; ++i) {
            if (!plan.split) {
                r[i].store(s_values, s_indices, rectangle * plan.slab + lane * N + i);
            } else if (i < channels) {
                const long long out = (n * plan.y.count * q_count + rectangle) * plan.c + mine + i;
                r[i].store(static_cast<A*>(p.parts), p.part_indices, out);
            }
        }
    }
    if (plan.split) return;
    __syncthreads();
    write_cells<T, R>(p, plan, at, smaller(plan.slab, plan.c - c0), plan.slab, 1,
                      [&](int c) { return n * p.yn + (c0 + c) * p.yc; });
}

/// Copy `rows` rows from row y on of `planes` planes to s, row after row; returns how far behind s they start.
template <class T>
__device__ int stage(const PyramidPoolFwdParams& p, T* s, int first, int planes, int y, int rows) {
    constexpr int N = vec_size<T>, depth = stage_bytes / 16 / threads;
    const T* g_x = static_cast<const T*>(p.x);
    const int c = static_cast<int>(p.c), w = static_cast<int>(p.w), total = planes * rows * w;
    const bool contiguous = p.sw == 1 && p.sh == p.w && p.sc == p.h * p.w && p.sn == p.c * p.sc;
    if (!contiguous) {
        for (int e = threadIdx.x; e < total; e += threads) {
            const int row = e / w, plane = first + row / rows;
            s[e] = g_x[plane / c * p.sn + plane % c * p.sc + (y + row % rows) * p.sh + e % w * p.sw];
        }
        return 0;
    }
    g_x += (first * p.h + y) * p.w;
    const int shift = static_cast<int>(reinterpret_cast<uintptr_t>(g_x) % 16 / sizeof(T));
    Vec<T> v[depth + 1];  // one more where the first is not whole
#pragma unroll
    for (int d = 0; d <= depth; ++d) {
        const int e = (d * threads + static_cast<int>(threadIdx.x)) * N - shift;
        if (e >= 0 && e + N <= total) v[d] = load_vec<N>(g_x + e, N, true, 1, T(0.0f));
    }
#pragma unroll
    for (int d = 0; d <= depth; ++d) {
        const int e = (d * threads + static_cast<int>(threadIdx.x)) * N - shift;
        if (e >= 0 && e + N <= total) {
            store_vec(s + shift + e, v[d], N, true, 1);
        } else {
#pragma unroll 1
            for (int i = larger(e, 0); i < smaller(e + N, total); ++i) s[shift + i] = g_x[i];
        }
    }
    return shift;
}

/// One warp: rows [y0, y1) of a staged plane, joined to the results of one interval of rows, for every column interval.
/// Where rows hold whole vectors, a lane has `per_lane` columns side by side; several rows at a time where they are
/// short.
template <class T, class R>
__device__ void reduce_rows(const Plan& plan, const T* s_plane, int y0, int y1, int y_staged, Acc<T>* s_values,
                            int* s_indices, Acc<T>* s_columns, int* s_places) {
    constexpr int tile = FwdShared<T, R>::tile, per_lane = FwdShared<T, R>::per_lane;
    const int lane = threadIdx.x % 32, q_count = plan.x.count, end = plan.x.at(q_count);
    const bool whole = is_aligned(s_plane + plan.x.at(0), per_lane * sizeof(T), plan.w * sizeof(T)) &&
                       (end - plan.x.at(0)) % per_lane == 0;
    int lanes = 1;  // per interval of columns
    while (lanes * 2 * q_count <= 32) lanes *= 2;
    for (int x0 = plan.x.at(0); x0 < end; x0 += tile) {
        int across = 32;  // lanes along columns
        while (across > 1 && across / 2 * per_lane >= end - x0) across /= 2;
        const int next = whole ? 1 : across, x = x0 + lane % across * (whole ? per_lane : 1);
        R column[per_lane];
        int y = y0 + lane / across;
        const T* s_first = s_plane - y_staged * plan.w + x;
        if (whole && x < end) {
#pragma unroll 4
            for (; y < y1; y += 32 / across) {
                const Vec<T, per_lane> v = *reinterpret_cast<const Vec<T, per_lane>*>(s_first + y * plan.w);
#pragma unroll
                for (int k = 0; k < per_lane; ++k) column[k].take(widen(v[k]), y * plan.w + x + k);
            }
        } else if (!whole) {
            for (; y < y1; y += 32 / across)
#pragma unroll
                for (int k = 0; k < per_lane; ++k)
                    if (x + next * k < end)
                        column[k].take(widen(s_first[y * plan.w + next * k]), y * plan.w + x + next * k);
        }
#pragma unroll
        for (int k = 0; k < per_lane; ++k) join_lanes(column[k], across, 32);
        if (lane < across && whole) {
            store_results(column, s_columns + x - x0, s_places + x - x0);
        } else if (lane < across) {
#pragma unroll
            for (int k = 0; k < per_lane; ++k) column[k].store(s_columns, s_places, x - x0 + next * k);
        }
        __syncwarp();
        for (int first = 0; first < q_count; first += 32 / lanes) {
            const int q = first + lane / lanes;
            const int low = q < q_count ? larger(plan.x.at(q), x0) : 0;
            const int high = q < q_count ? smaller(plan.x.at(q + 1), x0 + tile) : 0;
            R r;
            for (int x = low + lane % lanes; x < high; x += lanes) r.join(R::load(s_columns, s_places, x - x0));
            join_lanes(r, 1, lanes);
            if (lane % lanes == 0 && low < high) {
                R sum = R::load(s_values, s_indices, q);
                sum.join(r);
                sum.store(s_values, s_indices, q);
            }
        }
        __syncwarp();
    }
}

template <class T, class R>
__device__ void pool_planes(const PyramidPoolFwdParams& p, const Plan& plan) {
    using A = Acc<T>;
    __shared__ int s_next;
    const FwdShared<T, R> at(plan);
    Span *s_rows = shared_at<Span>(at.rows), *s_cols = shared_at<Span>(at.cols);
    A* s_values = shared_at<A>(at.values);
    int* s_indices = shared_at<int>(at.indices);
    T* s_stage = shared_at<T>(at.stage);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, q_count = plan.x.count;
    A* s_columns = shared_at<A>(at.columns) + warp * at.tile;
    int* s_places = shared_at<int>(at.column_indices) + warp * at.tile;
    const int band = blockIdx.x % plan.bands, group = blockIdx.x / plan.bands;
    const int first = group * plan.planes, planes = smaller(plan.planes, plan.n * plan.c - first);
    const int u0 = first_of(plan.y.count, plan.bands, band), u1 = first_of(plan.y.count, plan.bands, band + 1);
    const int per_plane = (u1 - u0) * q_count;
    if (!plan.split) {
        find_spans(s_rows, plan.rows, plan.levels, plan.y);
        find_spans(s_cols, plan.cols, plan.levels, plan.x);
    }
    for (int i = threadIdx.x; i < planes * per_plane; i += threads) R().store(s_values, s_indices, i);

    const int y_end = plan.staged > 1 ? plan.h : plan.y.at(u1);  // planes that are staged together leave out no row
    const int most_rows = smaller(plan.h, static_cast<int>(stage_bytes / sizeof(T)) / plan.w);
    for (int plane = 0; plane < planes; plane += plan.staged) {
        const int held = smaller(plan.staged, planes - plane);
        for (int y = plan.y.at(u0), u = u0; y < y_end; y += most_rows) {
            const int rows = smaller(most_rows, y_end - y);
            const int shift = stage(p, s_stage, first + plane, held, y, rows);
            if (threadIdx.x == 0) s_next = 0;
            while (plan.y.at(u + 1) <= y) ++u;
            int jobs = 1;  // intervals of rows that have some of these
            while (u + jobs < u1 && plan.y.at(u + jobs) < y + rows) ++jobs;
            __syncthreads();
            for (int job = next_job(&s_next, lane); job < jobs * held; job = next_job(&s_next, lane)) {
                const int own = job % held, interval = u + job / held, out = (plane + own) * per_plane;
                reduce_rows<T, R>(plan, s_stage + shift + own * rows * plan.w, larger(plan.y.at(interval), y),
                                  smaller(plan.y.at(interval + 1), y + rows), y,
                                  s_values + out + (interval - u0) * q_count,
                                  s_indices + out + (interval - u0) * q_count, s_columns, s_places);
            }
            __syncthreads();
        }
    }
    if (plan.split) {  // one plane
        const long long out = (static_cast<long long>(first) * plan.y.count + u0) * q_count;
        for (int i = threadIdx.x; i < per_plane; i += threads)
            R::load(s_values, s_indices, i).store(static_cast<A*>(p.parts), p.part_indices, out + i);
        return;
    }
    write_cells<T, R>(p, plan, at, planes, 1, per_plane, [&, n0 = first / plan.c, c0 = first % plan.c](int plane) {
        int n = n0, c = c0 + plane;
        for (; c >= plan.c; c -= plan.c) ++n;
        return n * p.yn + c * p.yc;
    });
}

/// Blocks per multiprocessor that registers are left for.
template <bool Max, bool Inner>
inline constexpr int resident = Inner || Max ? 2 : 4;

}  // namespace pk::pool

namespace pk {

template <class T, bool Max, bool Inner>
__global__ void __launch_bounds__(pool::threads, (pool::resident<Max, Inner>))
    pyramid_pool_fwd_kernel(const __grid_constant__ PyramidPoolFwdParams p, const __grid_constant__ pool::Plan plan) {
    using R = std::conditional_t<Max, FirstMax<Acc<T>>, Sum<Acc<T>>>;
    if constexpr (Inner) {
        pool::pool_slab<T, R>(p, plan);
    } else {
        pool::pool_planes<T, R>(p, plan);
    }
}

}  // namespace pk
