// Launches of dilated_branches' gradients on Hopper: tensor maps, clusters.
#include "dilated_branches/dilated_branches_bwd_sm90.cuh"
#include "dilated_branches/plan.cuh"

namespace pk {

namespace {

/// Whether tiles of half the columns make the longest share shorter, where workers have few units: a step of theirs
/// takes some 11 / 20 of the time.
template <class UnitsOf>
bool prefers_narrow(int workers, UnitsOf&& units_of) {
    const auto wide = units_of(256);
    if (wide.tiles.units >= 3 * workers) return false;
    return 11 * units_of(128).longest_share(workers) < 20 * wide.longest_share(workers);
}

/// Call `body` with Cta<T, COLS> for a call's dtype and columns.
template <template <class, int> class Cta, class Body>
Status visit_cta(Dtype dtype, bool narrow, Body&& body) {
    return visit_int<128, 256>("columns", narrow ? 128 : 256, [&](auto cols) {
        constexpr int COLS = decltype(cols)::value;
        return dtype == Dtype::f16 ? body(Type<Cta<half, COLS>>{}) : body(Type<Cta<bf16, COLS>>{});
    });
}

/// The branches' shapes in a row.
struct Shapes {
    BranchShape at[MAX_BRANCHES];
    explicit Shapes(const Branches& branches) {
        for (int b = 0; b < branches.count; ++b) at[b] = branches.branch[b].shape;
    }
};

/// Whether each branch's part of dz can be loaded by TMA.
template <class Params>
bool takes_dz(const Params& p) {
    const Branch* branch = p.branches.branch;
    return has_sm90_bodies(p.branches) && p.branches.map.n > 0 && takes_boxes(p.dz, {p.dz_n, p.dz_h, p.dz_w}) &&
           std::all_of(branch, branch + p.branches.count, [](const Branch& b) { return b.first % 8 == 0; });
}

/// The tensor maps of every branch's part of dz, in boxes of 64 channels.
template <class Params>
Status encode_dz(const Params& p, Extent box, TensorMap (&maps)[MAX_BRANCHES]) {
    for (int b = 0; b < p.branches.count; ++b) {
        const Branch& branch = p.branches.branch[b];
        const char* g_dz = static_cast<const char*>(p.dz) + branch.first * bytes_of(p.branches.dtype);
        PK_TRY(encode_pixels(g_dz, p.branches, branch.shape.o, p.dz_n, p.dz_h, p.dz_w, box, maps[b]));
    }
    return {};
}

/// Pairs of CTAs that fit on the device at once.
int workers_of(int blocks) { return larger(1, blocks / 2); }

template <class G>
Shape pairs_of(int workers, int units) {
    return {dim3(2 * smaller(workers, units)), dim3(G::THREADS), HopperRing<G>::SHARED, dim3(2), true};
}

}  // namespace

bool takes_sm90_body(const DilatedBranchesBwdDxParams& p) {
    const Branch* branch = p.branches.branch;
    const Extent map = p.branches.map, tile = pixel_tile(map, tile_pixels);
    return takes_dz(p) && map.h / tile.h < (1 << 16) - 1 && map.w / tile.w < (1 << 16) - 1 &&
           std::all_of(branch, branch + p.branches.count, [](const Branch& b) { return takes_boxes(b); });
}

bool takes_sm90_body(const DilatedBranchesBwdDwParams& p) {
    return takes_dz(p) && takes_boxes(p.x, {p.x_n, p.x_h, p.x_w});
}

Status launch_dilated_branches_bwd_dx_sm90(const DilatedBranchesBwdDxParams& call, Queue queue) {
    constexpr const char* name = "dilated_branches_bwd_dx_sm90_kernel";
    const DeviceGuard guard(queue.device);
    PK_TRY(guard.status(name));
    const Branches& branches = call.branches;
    const Shapes shapes(branches);
    const int workers = workers_of(call.blocks);
    const auto units_of = [&](int cols) {
        return banded_tiles(branches.map, call.tile, shapes.at, branches.count, ceil_div(branches.c, cols), 64);
    };
    const bool narrow = prefers_narrow(workers, units_of);
    return visit_cta<InputGradientCta>(branches.dtype, narrow, [&]<class G>(Type<G>) -> Status {
        DilatedBranchesBwdDxSm90Params p{call, units_of(G::COLS).tiles, false, call.tile, {}, {}, {}};
        (call.tile.n > 1 ? p.half.n : p.half.h) /= 2;
        PK_TRY(encode_dz(call, p.half, p.dz));
        for (int b = 0; b < branches.count; ++b) PK_TRY(encode_weights(branches, branches.branch[b], 64, p.w[b]));
        p.boxes = call.dx_c == 1 && takes_boxes(call.dx, {call.dx_n, call.dx_h, call.dx_w});
        if (p.boxes)
            PK_TRY(encode_pixels(call.dx, branches, branches.c, call.dx_n, call.dx_h, call.dx_w, p.half, p.dx));
        return launch(name, branches.dtype, dilated_branches_bwd_dx_sm90_kernel<G>, pairs_of<G>(workers, p.tiles.units),
                      queue, p);
    });
}

Status launch_dilated_branches_bwd_dw_sm90(const DilatedBranchesBwdDwParams& call, Queue queue) {
    constexpr const char* name = "dilated_branches_bwd_dw_sm90_kernel";
    const DeviceGuard guard(queue.device);
    PK_TRY(guard.status(name));
    const Branches& branches = call.branches;
    const Branch* branch = branches.branch;
    const Shapes shapes(branches);
    const int workers = workers_of(call.blocks);
    const Extent box = pixel_tile(branches.map, 64);
    const auto units_of = [&](int cols) {
        return tap_tiles(branches.map, box, shapes.at, branches.count, 128, ceil_div(branches.c, cols), call.splits);
    };
    const bool narrow = prefers_narrow(workers, units_of);
    return visit_cta<WeightGradientCta>(branches.dtype, narrow, [&]<class G>(Type<G>) -> Status {
        DilatedBranchesBwdDwSm90Params p{call, units_of(G::COLS).tiles, false, box, {}, {}, {}};
        PK_TRY(encode_dz(call, box, p.dz));
        PK_TRY(encode_pixels(call.x, branches, branches.c, call.x_n, call.x_h, call.x_w, box, p.x));
        p.boxes = call.splits == 1 && std::all_of(branch, branch + branches.count,
                                                  [](const Branch& b) { return b.w_c == 1 && takes_boxes(b); });
        for (int b = 0; p.boxes && b < branches.count; ++b) PK_TRY(encode_weights(branches, branch[b], 64, p.dw[b]));
        return launch(name, branches.dtype, dilated_branches_bwd_dw_sm90_kernel<G>, pairs_of<G>(workers, p.tiles.units),
                      queue, p);
    });
}

}  // namespace pk
