// Launchers of pyramid_pool.
#include "common/launch.cuh"
#include "pyramid_pool/pyramid_pool.h"
#include "pyramid_pool/pyramid_pool_bwd.cuh"
#include "pyramid_pool/pyramid_pool_fwd.cuh"
#include "pyramid_pool/pyramid_pool_merge.cuh"

namespace pk {
namespace {

using pool::Plan;

Status plan_fwd(const PyramidPoolFwdParams& p, Plan& plan) {
    return pool::make_plan(plan, {p.n, p.c, p.h, p.w}, p.sc, p.sw, p.pyramid, bytes_of(p.dtype), p.processors,
                           pool::Pass::forward);
}

Status blocks_of(const char* kernel, int64_t blocks, dim3& grid) {
    PK_CHECK(blocks < (int64_t{1} << 31), kernel, ": ", blocks, " blocks are too many");
    grid = dim3(blocks);
    return {};
}

template <class T, bool Max>
Status launch_merge(const PyramidPoolFwdParams& p, const Plan& plan, Queue queue) {
    constexpr const char* name = "pyramid_pool_merge_kernel";
    const int windows = pool::windows_of(plan.rows, plan.levels) + pool::windows_of(plan.cols, plan.levels);
    Shape shape{{}, pool::threads, windows * sizeof(pool::Span)};
    const int64_t outputs = int64_t{plan.n} * plan.c * plan.cells;
    PK_TRY(blocks_of(name, ceil_div<int64_t>(outputs, pool::warps * 8), shape.grid));
    return launch(name, p.dtype, pyramid_pool_merge_kernel<T, Max>, shape, queue, p, plan);
}

}  // namespace

Status pyramid_pool_parts(const PyramidPoolFwdParams& p, int64_t& parts) {
    Plan plan;
    PK_TRY(plan_fwd(p, plan));
    parts = plan.split ? int64_t{plan.n} * plan.c * plan.y.count * plan.x.count : 0;
    return {};
}

Status launch_pyramid_pool_fwd(const PyramidPoolFwdParams& p, Queue queue) {
    constexpr const char* name = "pyramid_pool_fwd_kernel";
    Plan plan;
    PK_TRY(plan_fwd(p, plan));
    PK_CHECK(!plan.split || p.parts || p.n == 0, name, ": no room for partial results, see pyramid_pool_parts");
    Shape shape{{}, pool::threads};
    PK_TRY(blocks_of(name, plan.groups() * plan.bands, shape.grid));
    return visit_dtype(p.dtype, [&]<class T>(Type<T>) {
        return visit_bool(p.pyramid.max, [&](auto max) {
            using R = std::conditional_t<max, FirstMax<Acc<T>>, Sum<Acc<T>>>;
            shape.shared = pool::FwdShared<T, R>(plan).size;
            PK_TRY(visit_bool(plan.inner, [&](auto inner) {
                return launch(name, p.dtype, pyramid_pool_fwd_kernel<T, max, inner>, shape, queue, p, plan);
            }));
            return plan.split ? launch_merge<T, max>(p, plan, queue) : Status{};
        });
    });
}

Status launch_pyramid_pool_bwd(const PyramidPoolBwdParams& p, Queue queue) {
    constexpr const char* name = "pyramid_pool_bwd_dx_kernel";
    Plan plan;
    PK_TRY(pool::make_plan(plan, {p.n, p.c, p.h, p.w}, p.sc, p.sw, p.pyramid, bytes_of(p.dtype), p.processors,
                           pool::Pass::backward));
    Shape shape{{}, pool::threads};
    PK_TRY(blocks_of(name, plan.groups() * plan.bands, shape.grid));
    return visit_dtype(p.dtype, [&]<class T>(Type<T>) {
        return visit_bool(p.pyramid.max, [&](auto max) {
            shape.shared = pool::BwdShared<T, max>(plan).size;
            return visit_bool(plan.inner, [&](auto inner) {
                return launch(name, p.dtype, pyramid_pool_bwd_dx_kernel<T, max, inner>, shape, queue, p, plan);
            });
        });
    });
}

}  // namespace pk
