// Launchers of dilated_branches' backward.
#include "dilated_branches/dilated_branches_bwd.cuh"
#include "dilated_branches/dilated_branches_dz.cuh"
#include "dilated_branches/plan.cuh"

namespace pk {

Status launch_dilated_branches_bwd_dz(const DilatedBranchesBwdDzParams& params, Queue queue) {
    DilatedBranchesBwdDzParams p = params;
    PK_TRY(check(p.branches));
    const Extent map = p.branches.map;
    const int y = number_blocks(p.branches, p.first_block, [](BranchShape s) { return ceil_div(s.o, 64); });
    const dim3 grid(ceil_div<long long>(1LL * map.n * map.h * map.w, dz_pixels), y);
    return visit_element(p.branches, [&]<class T>(Type<T>) {
        return launch("dilated_branches_bwd_dz_kernel", p.branches.dtype, dilated_branches_bwd_dz_kernel<T>,
                      Shape{grid, dim3(Slab<T>::THREADS), 2 * Slab<T>::COPY * sizeof(T)}, queue, p);
    });
}

Status launch_dilated_branches_bwd_sums(const DilatedBranchesSumsParams& params, Queue queue) {
    return launch("dilated_branches_bwd_sums_kernel", Dtype::f32, dilated_branches_bwd_sums_kernel,
                  Shape{dim3(ceil_div(params.length, 32)), dim3(256)}, queue, params);
}

Status launch_dilated_branches_bwd_dimage(const DilatedBranchesBwdDimageParams& params, Queue queue) {
    const int taps = params.shape.side * params.shape.side;
    const dim3 grid(params.map.n * taps, ceil_div(params.shape.o, 64));
    return visit_dtype(params.dtype, [&]<class T>(Type<T>) {
        return launch("dilated_branches_bwd_dimage_kernel", params.dtype, dilated_branches_bwd_dimage_kernel<T>,
                      Shape{grid, dim3(256)}, queue, params);
    });
}

Status launch_dilated_branches_bwd_dx(const DilatedBranchesBwdDxParams& params, Queue queue) {
    DilatedBranchesBwdDxParams p = params;
    PK_TRY(check(p.branches));
    p.tile = pixel_tile(p.branches.map, tile_pixels);
    if (takes_sm90_body(p)) return launch_dilated_branches_bwd_dx_sm90(p, queue);
    return visit_tile<true, false>(p.branches, [&]<class G>(Type<G>) {
        const int grid = branches_pixel_tiles(p.branches) * ceil_div(p.branches.c, G::COLS);
        return launch("dilated_branches_bwd_dx_kernel", p.branches.dtype, dilated_branches_bwd_dx_kernel<G>,
                      Shape{dim3(grid), dim3(G::THREADS), G::shared(p.branches.arch)}, queue, p);
    });
}

Status launch_dilated_branches_bwd_dw(const DilatedBranchesBwdDwParams& params, Queue queue) {
    DilatedBranchesBwdDwParams p = params;
    PK_TRY(check(p.branches));
    p.elements = 0;
    for (int b = 0; b < p.branches.count; ++b) {
        const BranchShape shape = p.branches.branch[b].shape;
        p.first_element[b] = p.elements;
        p.elements += 1LL * shape.o * shape.side * shape.side * p.branches.c;
    }
    const auto general = [&]<class G>(Type<G>) {
        const int grid = number_blocks(p.branches, p.first_block, [&](BranchShape s) {
            return s.side * s.side * ceil_div(s.o, G::ROWS) * ceil_div(p.branches.c, G::COLS);
        });
        return launch("dilated_branches_bwd_dw_kernel", p.branches.dtype, dilated_branches_bwd_dw_kernel<G>,
                      Shape{dim3(grid, p.splits), dim3(G::THREADS), G::shared(p.branches.arch)}, queue, p);
    };
    PK_TRY((takes_sm90_body(p) ? launch_dilated_branches_bwd_dw_sm90(p, queue)
                               : visit_tile<false, false>(p.branches, general)));
    if (p.splits == 1) return {};
    return visit_element(p.branches, [&]<class T>(Type<T>) {
        return launch("dilated_branches_bwd_dw_sum_kernel", p.branches.dtype, dilated_branches_bwd_dw_sum_kernel<T>,
                      Shape{dim3(ceil_div<long long>(p.elements, 256)), dim3(256)}, queue, p);
    });
}

}  // namespace pk
