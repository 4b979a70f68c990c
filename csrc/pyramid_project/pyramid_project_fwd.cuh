// Forward of pyramid_project: one grouped GEMM over all levels, with the epilogue on its sums.
//
// Owns: a block owns 64 rows (image, cell) and 32 output channels of one level; depth is C.
// Grid: for each level its tiles, output channels first; then tiles of the rows (image, cell beyond the level's grid),
// which have no depth and are written as zeros.
// Shared bytes: GemmTile::SHARED. Bound: reading the weights; a pyramid has few rows.
#pragma once

#include "pyramid_project/pyramid_project_level.cuh"

namespace pk {

template <class G>
__global__ void __launch_bounds__(G::THREADS)
    pyramid_project_fwd_kernel(const __grid_constant__ PyramidProjectFwdParams p) {
    using T = typename G::T;
    const ProjectPyramid& pyramid = p.pyramid;
    const ProjectLevel& level = pyramid.level[level_of_block(pyramid)];
    const int block = blockIdx.x - level.first_block, o_blocks = ceil_div(level.channels, G::COLS);
    const int data = ceil_div(pyramid.n * level.cells, G::ROWS), tile = block / o_blocks;
    const bool beyond = tile >= data;
    const int o0 = block % o_blocks * G::COLS, row0 = (beyond ? tile - data : tile) * G::ROWS;
    const int cells = beyond ? pyramid.full - level.cells : level.cells, first = beyond ? level.cells : 0;

    const T* g_x = static_cast<const T*>(p.pooled) + level.first_cell * p.x_s;
    const Operand<T> x{g_x, rows_of(pyramid.n, cells, p.x_n, p.x_s), Dim::plain(beyond ? 0 : pyramid.c, p.x_c)};
    Acc<T> r_acc[G::Product::COUNT];
    multiply_tile<G>(x, row0, weight_by_output<T>(level, pyramid.c), o0, shared_memory<T>(), r_acc);

    const auto epilogue = [&](int row, int col, Vec<Acc<T>, vec_size<T>>& r) {
        const int o = o0 + col, count = level.channels - o;
        if (row0 + row >= x.line.count || count <= 0) return;
        const long long image = (row0 + row) / cells, cell = first + (row0 + row) % cells;
        const long long at = image * p.y_n + (level.first_channel + o) * p.y_c + cell * p.y_s;
        if (p.z) store_rounded(static_cast<T*>(p.z) + at, r.at, count, p.y_c);
#pragma unroll
        for (int i = 0; i < vec_size<T>; ++i)
            if (i < count) r[i] = beyond ? 0 : activated<T>(level.norm, o + i, r[i], p.relu);
        store_rounded(static_cast<T*>(p.y) + at, r.at, count, p.y_c);
    };
    for_each_product<G>(r_acc, shared_memory<Acc<T>>(), p.y_s < p.y_c, epilogue);
}

}  // namespace pk
