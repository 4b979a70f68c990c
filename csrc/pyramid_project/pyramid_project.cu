// Launchers of pyramid_project: blocks of all levels in one row.
#include "common/launch.cuh"
#include "pyramid_project/pyramid_project_bwd.cuh"
#include "pyramid_project/pyramid_project_fwd.cuh"

namespace pk {

namespace {

/// Launch `kernel(params)` over the blocks of all levels in one row, of which level l has blocks(level).
template <class Kernel, class Params, class Blocks>
Status launch_levels(const char* name, Kernel kernel, Shape shape, Queue queue, Params params, Blocks blocks) {
    ProjectPyramid& pyramid = params.pyramid;
    PK_CHECK(is_dtype(static_cast<int>(pyramid.dtype)), "dtype must be 0 to 3, got ", static_cast<int>(pyramid.dtype));
    PK_CHECK(0 < pyramid.levels && pyramid.levels <= max_project_levels, "levels must be 1 to ", max_project_levels,
             ", got ", pyramid.levels);
    PK_CHECK(pyramid.n >= 0 && pyramid.c > 0, "n and c must be positive, got ", pyramid.n, " and ", pyramid.c);
    PK_CHECK(1LL * pyramid.n * pyramid.full < (1LL << 31) - 64, "too many rows: ", pyramid.n, " x ", pyramid.full);
    long long sum = 0;
    for (int l = 0; l < pyramid.levels; ++l) {
        ProjectLevel& level = pyramid.level[l];
        PK_CHECK(level.channels > 0 && level.cells > 0 && level.cells <= pyramid.full, "level ", l, " has ",
                 level.channels, " channels and ", level.cells, " of at most ", pyramid.full, " cells");
        level.first_block = static_cast<int>(sum);
        sum += blocks(level);
        PK_CHECK(sum < (1LL << 31), "too many blocks for one launch: ", sum);
    }
    shape.grid = dim3(sum);
    return launch(name, pyramid.dtype, kernel, shape, queue, params);
}

/// Call `body` with the GemmTile that a call's dtype and precision take.
template <bool A_BY_DEPTH, bool B_BY_DEPTH, class Body>
Status visit_tile(const ProjectPyramid& pyramid, Body&& body) {
    return visit_dtype(pyramid.dtype, [&]<class T>(Type<T>) -> Status {
        if constexpr (std::is_same_v<T, float>)
            if (pyramid.tf32) return body(Type<GemmTile<T, true, A_BY_DEPTH, B_BY_DEPTH>>{});
        return body(Type<GemmTile<T, false, A_BY_DEPTH, B_BY_DEPTH>>{});
    });
}

int tiles(long long rows, int block_rows) { return static_cast<int>(ceil_div<long long>(rows, block_rows)); }

}  // namespace

Status launch_pyramid_project_fwd(const PyramidProjectFwdParams& params, Queue queue) {
    const ProjectPyramid& p = params.pyramid;
    return visit_tile<true, true>(p, [&]<class G>(Type<G>) -> Status {
        const auto blocks = [&](const ProjectLevel& level) -> long long {
            const int rows =
                tiles(1LL * p.n * level.cells, G::ROWS) + tiles(1LL * p.n * (p.full - level.cells), G::ROWS);
            return 1LL * rows * ceil_div(level.channels, G::COLS);
        };
        return launch_levels("pyramid_project_fwd_kernel", pyramid_project_fwd_kernel<G>,
                             Shape{{}, dim3(G::THREADS), G::SHARED}, queue, params, blocks);
    });
}

Status launch_pyramid_project_bwd_dz(const PyramidProjectBwdDzParams& params, Queue queue) {
    return visit_dtype(params.pyramid.dtype, [&]<class T>(Type<T>) {
        const auto blocks = [](const ProjectLevel& level) { return ceil_div(level.channels, DzBlock::CHANNELS); };
        return launch_levels("pyramid_project_bwd_dz_kernel", pyramid_project_bwd_dz_kernel<T>,
                             Shape{{}, dim3(DzBlock::THREADS)}, queue, params, blocks);
    });
}

Status launch_pyramid_project_bwd_dpooled(const PyramidProjectBwdDpooledParams& params, Queue queue) {
    const ProjectPyramid& p = params.pyramid;
    return visit_tile<true, false>(p, [&]<class G>(Type<G>) -> Status {
        const auto blocks = [&](const ProjectLevel& level) {
            return 1LL * tiles(1LL * p.n * level.cells, G::ROWS) * ceil_div(p.c, G::COLS);
        };
        return launch_levels("pyramid_project_bwd_dpooled_kernel", pyramid_project_bwd_dpooled_kernel<G>,
                             Shape{{}, dim3(G::THREADS), G::SHARED}, queue, params, blocks);
    });
}

Status launch_pyramid_project_bwd_dweights(const PyramidProjectBwdDweightsParams& params, Queue queue) {
    const ProjectPyramid& p = params.pyramid;
    return visit_tile<false, false>(p, [&]<class G>(Type<G>) -> Status {
        const auto blocks = [&](const ProjectLevel& level) {
            return 1LL * ceil_div(level.channels, G::ROWS) * ceil_div(p.c, G::COLS);
        };
        return launch_levels("pyramid_project_bwd_dweights_kernel", pyramid_project_bwd_dweights_kernel<G>,
                             Shape{{}, dim3(G::THREADS), G::SHARED}, queue, params, blocks);
    });
}

}  // namespace pk
