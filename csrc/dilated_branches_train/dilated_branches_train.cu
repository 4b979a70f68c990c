// Launchers of dilated_branches_train.
#include "dilated_branches/plan.cuh"
#include "dilated_branches_train/dilated_branches_train.cuh"

namespace pk {

Status launch_dilated_branches_train_stats(const DilatedBranchesStatsParams& params, Dtype dtype, Queue queue) {
    return launch("dilated_branches_train_stats_kernel", dtype, dilated_branches_train_stats_kernel<>,
                  Shape{dim3(ceil_div(params.channels, 32)), dim3(256)}, queue, params);
}

Status launch_dilated_branches_train_normalise(const DilatedBranchesNormaliseParams& params, Queue queue) {
    DilatedBranchesNormaliseParams p = params;
    const Extent map = p.branches.map;
    const int rows = number_blocks(p.branches, p.first_block, [](BranchShape s) { return ceil_div(s.o, 64); });
    const long long pixels = 1LL * map.n * map.h * map.w;
    const dim3 grid(ceil_div<long long>(pixels, 64), rows);
    return visit_dtype(p.branches.dtype, [&]<class T>(Type<T>) {
        return launch("dilated_branches_train_normalise_kernel", p.branches.dtype,
                      dilated_branches_train_normalise_kernel<T>, Shape{grid, dim3(256), Slab<T>::COPY * sizeof(T)},
                      queue, p);
    });
}

}  // namespace pk
