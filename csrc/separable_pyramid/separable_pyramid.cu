// Launchers of separable_pyramid.
#include "common/launch.cuh"
#include "separable_pyramid/separable_pyramid_bwd.cuh"
#include "separable_pyramid/separable_pyramid_fwd.cuh"

namespace pk {

namespace {

Status check(const SeparablePyramid& pyramid) {
    PK_CHECK(0 < pyramid.levels && pyramid.levels <= max_separable_levels, "levels must be 1 to ", max_separable_levels,
             ", got ", pyramid.levels);
    PK_CHECK(pyramid.n >= 0 && pyramid.c > 0, "n and c must be positive, got ", pyramid.n, " and ", pyramid.c);
    long long cells = 0;
    for (int l = 0; l < pyramid.levels; ++l) {
        const SeparableLevel& level = pyramid.level[l];
        PK_CHECK(level.rows > 0 && level.cols > 0 && level.first_cell == cells, "level ", l, " has a grid of ",
                 level.rows, " x ", level.cols, " from cell ", level.first_cell, " where ", cells, " lie before");
        cells += 1LL * level.rows * level.cols;
    }
    PK_CHECK(cells == pyramid.cells, "the grids have ", cells, " cells, not ", pyramid.cells);
    PK_CHECK(cells * pyramid.c < (1LL << 31) && cells * pyramid.n < (1LL << 31), "too many cells: ", cells, " x ",
             pyramid.n, " x ", pyramid.c);
    return {};
}

}  // namespace

Status launch_separable_pyramid_depthwise(const SeparablePyramidDepthwiseParams& params, Queue queue) {
    const SeparablePyramid& pyramid = params.pyramid;
    PK_TRY(check(pyramid));
    const long long elements = 1LL * pyramid.n * pyramid.c * pyramid.cells;
    const long long blocks = ceil_div<long long>(elements, depthwise_threads);
    PK_CHECK(blocks < (1LL << 31), "too many blocks for one launch: ", blocks);
    return visit_dtype(pyramid.dtype, [&]<class T>(Type<T>) {
        return launch("separable_pyramid_depthwise_kernel", pyramid.dtype, separable_pyramid_depthwise_kernel<T>,
                      Shape{dim3(blocks), dim3(depthwise_threads)}, queue, params);
    });
}

Status launch_separable_pyramid_bwd_ddepthwise(const SeparablePyramidBwdDdepthwiseParams& params, Queue queue) {
    const SeparablePyramid& pyramid = params.pyramid;
    PK_TRY(check(pyramid));
    const dim3 grid(ceil_div(pyramid.c, DdepthwiseBlock::CHANNELS), pyramid.levels);
    return visit_dtype(pyramid.dtype, [&]<class T>(Type<T>) {
        return launch("separable_pyramid_bwd_ddepthwise_kernel", pyramid.dtype,
                      separable_pyramid_bwd_ddepthwise_kernel<T>, Shape{grid, dim3(DdepthwiseBlock::THREADS)}, queue,
                      params);
    });
}

}  // namespace pk
