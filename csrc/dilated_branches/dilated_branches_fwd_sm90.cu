// Launches of dilated_branches' forward on Hopper: tensor maps, clusters.
#include "dilated_branches/dilated_branches_fwd_sm90.cuh"
#include "dilated_branches/plan.cuh"

namespace pk {

namespace {

/// Call `body` with the HopperTile of a call's dtype and widest branch.
template <class Body>
Status visit_hopper(const Branches& branches, Body&& body) {
    int widest = 0;
    for (int b = 0; b < branches.count; ++b) widest = larger(widest, branches.branch[b].shape.o);
    return visit_int<128, 256>("columns", widest > 128 ? 256 : 128, [&](auto cols) {
        constexpr int COLS = decltype(cols)::value;
        return branches.dtype == Dtype::f16 ? body(Type<HopperTile<half, COLS>>{})
                                            : body(Type<HopperTile<bf16, COLS>>{});
    });
}

template <class G>
Status launch_sm90(const DilatedBranchesFwdParams& call, Queue queue) {
    DilatedBranchesFwdSm90Params p{call, {}, {}};
    plan<G>(p.call, 2);
    const Branches& branches = p.call.branches;
    if (branches.map.n == 0) return {};
    constexpr const char* name = "dilated_branches_fwd_sm90_kernel";
    const DeviceGuard guard(queue.device);
    PK_TRY(guard.status(name));
    PK_TRY(encode_pixels(p.call.x, branches, branches.c, p.call.x_n, p.call.x_h, p.call.x_w, p.call.tile, p.x));
    for (int b = 0; b < branches.count; ++b) PK_TRY(encode_weights(branches, branches.branch[b], G::COLS / 2, p.w[b]));
    return launch(name, branches.dtype, dilated_branches_fwd_sm90_kernel<G>,
                  Shape{dim3(2 * p.call.schedule.workers), dim3(G::THREADS), HopperRing<G>::SHARED, dim3(2), true},
                  queue, p);
}

}  // namespace

Status plan_dilated_branches_fwd_sm90(const DilatedBranchesFwdParams& params, BranchesPlan& out) {
    return visit_hopper(params.branches, [&]<class T>(Type<T>) { return report<T>(params, true, out); });
}

Status launch_dilated_branches_fwd_sm90(const DilatedBranchesFwdParams& params, Queue queue) {
    return visit_hopper(params.branches, [&]<class T>(Type<T>) { return launch_sm90<T>(params, queue); });
}

}  // namespace pk
