// Launches of dilated_branches' forward, and what they would do.
#include "dilated_branches/dilated_branches_fwd.cuh"
#include "dilated_branches/plan.cuh"

namespace pk {

int branches_pixel_tiles(const Branches& branches) {
    const Extent tile = pixel_tile(branches.map, tile_pixels), map = branches.map;
    return ceil_div(map.n, tile.n) * ceil_div(map.h, tile.h) * ceil_div(map.w, tile.w);
}

bool takes_sm90_body(const DilatedBranchesFwdParams& p) {
    if (!has_sm90_bodies(p.branches) || (p.sum && p.branches.count > 1)) return false;
    const Branch* branch = p.branches.branch;
    return takes_boxes(p.x, {p.x_n, p.x_h, p.x_w}) &&
           std::all_of(branch, branch + p.branches.count, [](const Branch& b) { return takes_boxes(b); });
}

namespace {

Status check(const DilatedBranchesFwdParams& p) {
    PK_TRY(check(p.branches));
    PK_CHECK(p.blocks > 1, "at least 2 blocks are needed, got ", p.blocks);
    const Extent map = p.branches.map, tile = pixel_tile(map, tile_pixels);
    PK_CHECK(map.h / tile.h < (1 << 16) - 1 && map.w / tile.w < (1 << 16) - 1, "a map of ", map.h, " x ", map.w,
             " has too many tiles along an axis");
    std::int64_t steps = 0;  // at most, in tiles of any dtype
    for (int b = 0; b < p.branches.count; ++b) {
        const BranchShape shape = p.branches.branch[b].shape;
        steps += std::int64_t{branches_pixel_tiles(p.branches)} * ceil_div(shape.o, 128) * shape.side * shape.side *
                 ceil_div(p.branches.c, 32);
    }
    PK_CHECK(steps < std::int64_t{1} << 30, "too many steps for one launch: ", steps);
    return {};
}

}  // namespace

Status plan_dilated_branches_fwd(const DilatedBranchesFwdParams& params, BranchesPlan& out) {
    PK_TRY(check(params));
    if (takes_sm90_body(params)) return plan_dilated_branches_fwd_sm90(params, out);
    return visit_tile<true, true>(params.branches, [&]<class T>(Type<T>) { return report<T>(params, false, out); });
}

Status launch_dilated_branches_fwd(const DilatedBranchesFwdParams& params, Queue queue) {
    PK_TRY(check(params));
    if (takes_sm90_body(params)) return launch_dilated_branches_fwd_sm90(params, queue);
    return visit_tile<true, true>(params.branches, [&]<class G>(Type<G>) -> Status {
        DilatedBranchesFwdParams p = params;
        plan<G>(p, 1);
        const auto start = [&](auto sum, int grid) {
            return launch("dilated_branches_fwd_kernel", p.branches.dtype,
                          dilated_branches_fwd_kernel<G, decltype(sum)::value>,
                          Shape{dim3(grid), dim3(G::THREADS), G::shared(p.branches.arch)}, queue, p);
        };
        if (p.sum && p.branches.count > 1)
            return start(std::true_type{}, branches_pixel_tiles(p.branches) * p.schedule.o_tiles[0]);
        return start(std::false_type{}, p.schedule.workers);
    });
}

}  // namespace pk
