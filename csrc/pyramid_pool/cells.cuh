// What the kernels of pyramid_pool share: walking rectangles, finding cells, combining a cell's rectangles.
#pragma once

#include "common/reduce.cuh"
#include "common/scalar.cuh"
#include "common/vec.cuh"
#include "common/walk.cuh"
#include "pyramid_pool/plan.h"

namespace pk::pool {

/// Dynamic shared memory from byte `offset` on.
template <class U>
__device__ __forceinline__ U* shared_at(int offset) {
    return reinterpret_cast<U*>(shared_memory<unsigned char>() + offset);
}

/// The first of the things that `part` of `parts` gets: equal shares of `count`, the first ones larger by one.
__device__ __forceinline__ int first_of(int count, int parts, int part) {
    return count / parts * part + smaller(part, count % parts);
}

/// Where edge `position` stands among `edges`.
__device__ inline int rank(const Edges& edges, int position) {
    int low = 0, high = edges.count;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (edges.at(middle) < position) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/// The intervals [first, end) that one window covers.
struct Span {
    unsigned short first, end;
};

/// How many windows all levels have along an axis.
PK_HD int windows_of(const Axis* axes, int levels) {
    int total = 0;
    for (int level = 0; level < levels; ++level) total += axes[level].count;
    return total;
}

/// The spans of all windows along one axis, level by level, by the whole block.
__device__ inline void find_spans(Span* s_spans, const Axis* axes, int levels, const Edges& edges) {
    for (int level = 0; level < levels; s_spans += axes[level++].count)
        for (int i = threadIdx.x; i < axes[level].count; i += threads)
            s_spans[i] = {static_cast<unsigned short>(rank(edges, axes[level].start(i))),
                          static_cast<unsigned short>(rank(edges, axes[level].end(i)))};
}

/// A packed cell: the intervals of rows and columns it covers, what its average divides by, and which of its rectangles
/// a lane adds: every fourth, for the four lanes of a warp that differ in bits 3 and 4.
struct Cell {
    Span y, x;
    long long area;
    Walk mine;
};

__device__ inline Cell find_cell(const Plan& plan, int s, const Span* s_rows, const Span* s_cols) {
    int level = 0, size = plan.rows[0].count * plan.cols[0].count;
    while (s >= size) {
        s -= size, s_rows += plan.rows[level].count, s_cols += plan.cols[level].count, ++level;
        size = plan.rows[level].count * plan.cols[level].count;
    }
    const Axis &rows = plan.rows[level], &cols = plan.cols[level];
    const Span y = s_rows[s / cols.count], x = s_cols[s % cols.count];
    const int height = rows.den == 1 ? rows.step : plan.y.at(y.end) - plan.y.at(y.first);
    const int width = cols.den == 1 ? cols.step : plan.x.at(x.end) - plan.x.at(x.first);
    return {y, x, static_cast<long long>(height) * width, Walk(threadIdx.x % 32 / 8, 4, larger(x.end - x.first, 1))};
}

/// The rectangles of `cell`, `step` elements apart in row-major order.
template <class R, class A>
__device__ R combine_cell(const Plan& plan, const Cell& cell, const A* values, const int* indices, long long step) {
    R r;
    for (Walk at = cell.mine; at.y < cell.y.end - cell.y.first; at.next()) {
        const long long rectangle = static_cast<long long>(cell.y.first + at.y) * plan.x.count + cell.x.first + at.x;
        r.join(R::load(values, indices, rectangle * step));
    }
    join_lanes(r, 8, 32);
    return r;
}

template <class T, class R>
__device__ __forceinline__ void store_cell(const PyramidPoolFwdParams& p, const R& r, long long area, long long at) {
    if constexpr (R::has_index) {
        static_cast<T*>(p.y)[at] = narrow<T>(r.value);
        p.indices[at] = r.index;
    } else {
        static_cast<T*>(p.y)[at] = narrow<T>(div_rn(r.value, static_cast<Acc<T>>(area)));
    }
}

/// Call `body(s, area)` for every cell that holds pixel (y, x), in order of s.
template <class Body>
__device__ __forceinline__ void for_cells_holding(const Plan& plan, int y, int x, Body&& body) {
    int base = 0;
    for (int level = 0; level < plan.levels; ++level) {
        const Axis &rows = plan.rows[level], &cols = plan.cols[level];
        const int j0 = cols.first(x), j1 = cols.last(x), i1 = rows.last(y);
        for (int i = rows.first(y); i <= i1; ++i)
            for (int j = j0; j <= j1; ++j)
                body(base + i * cols.count + j, static_cast<long long>(rows.length(i)) * cols.length(j));
        base += rows.count * cols.count;
    }
}

}  // namespace pk::pool
