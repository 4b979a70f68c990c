// The second launch of pyramid_pool's forward pass, where blocks have left partial results: rectangles to cells.
// Four lanes combine one cell of one channel; neighbouring lanes own neighbouring channels, or neighbouring cells where
// a plane's rectangles lie together. Grid: x = runs of 64 outputs. Bound by the read of the rectangles, mostly from L2.
#pragma once

#include "pyramid_pool/cells.cuh"

namespace pk {

template <class T, bool Max>
__global__ void __launch_bounds__(pool::threads, 2)
    pyramid_pool_merge_kernel(const __grid_constant__ PyramidPoolFwdParams p, const __grid_constant__ pool::Plan plan) {
    using R = std::conditional_t<Max, FirstMax<Acc<T>>, Sum<Acc<T>>>;
    pool::Span* s_rows = shared_memory<pool::Span>();
    pool::Span* s_cols = s_rows + pool::windows_of(plan.rows, plan.levels);
    pool::find_spans(s_rows, plan.rows, plan.levels, plan.y);
    pool::find_spans(s_cols, plan.cols, plan.levels, plan.x);
    __syncthreads();
    const int lane = threadIdx.x % 32;
    const long long o = (static_cast<long long>(blockIdx.x) * pool::warps + threadIdx.x / 32) * 8 + lane % 8;
    const bool valid = o < static_cast<long long>(plan.n) * plan.c * plan.cells;
    const long long outer = o / (plan.inner ? plan.c : plan.cells);
    const int inner = static_cast<int>(o % (plan.inner ? plan.c : plan.cells));
    const long long n = outer / (plan.inner ? plan.cells : plan.c);
    const int other = static_cast<int>(outer % (plan.inner ? plan.cells : plan.c));
    const int c = plan.inner ? inner : other, s = plan.inner ? other : inner;
    pool::Cell cell{};
    if (valid) cell = pool::find_cell(plan, s, s_rows, s_cols);
    const long long rectangles = static_cast<long long>(plan.y.count) * plan.x.count;
    const long long at = plan.inner ? n * rectangles * plan.c + c : (n * plan.c + c) * rectangles;
    const R r = pool::combine_cell<R>(plan, cell, static_cast<const Acc<T>*>(p.parts) + at,
                                      Max ? p.part_indices + at : nullptr, plan.inner ? plan.c : 1);
    if (lane < 8 && valid) pool::store_cell<T>(p, r, cell.area, n * p.yn + c * p.yc + s * p.ys);
}

}  // namespace pk
