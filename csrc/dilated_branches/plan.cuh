// What the launchers of dilated_branches share: checks, types, tiles, and the plan of a forward.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <random>
#include <string_view>

#include "common/launch.cuh"
#include "common/tensor_map.h"
#include "dilated_branches/tile.cuh"

namespace pk {

constexpr int tile_pixels = 128;

inline Status check(const Branches& branches) {
    PK_CHECK(branches.dtype == Dtype::f32 || branches.dtype == Dtype::f16 || branches.dtype == Dtype::bf16,
             "dtype must be float32, float16 or bfloat16, got code ", static_cast<int>(branches.dtype));
    PK_CHECK(0 < branches.count && branches.count <= MAX_BRANCHES, "branches must be 1 to ", MAX_BRANCHES, ", got ",
             branches.count);
    const Extent map = branches.map;
    PK_CHECK(map.n >= 0 && map.h > 0 && map.w > 0 && branches.c > 0, "sizes must be positive, got n ", map.n, ", c ",
             branches.c, ", h ", map.h, ", w ", map.w);
    PK_CHECK(1LL * map.n * map.h * map.w < (1LL << 31) - 4096, "too many pixels: ", map.n, " x ", map.h, " x ", map.w);
    for (int b = 0; b < branches.count; ++b) {
        const BranchShape shape = branches.branch[b].shape;
        PK_CHECK((shape.side == 1 || shape.side == 3) && shape.o > 0 && shape.dilation > 0, "branch ", b, " has side ",
                 shape.side, ", ", shape.o, " channels, dilation ", shape.dilation);
    }
    return {};
}

/// Whether this build and the call's device and dtype have Hopper's bodies. Compiled for 80 or 90 alone, which run
/// there too, those are empty.
inline bool has_sm90_bodies(const Branches& branches) {
#if defined(__CUDACC__)
    if (std::string_view(architectures()).find("90a") == std::string_view::npos) return false;
#endif
    return branches.arch == 90 && (branches.dtype == Dtype::f16 || branches.dtype == Dtype::bf16);
}

/// Whether boxes of a half-precision tensor whose innermost stride is one can be copied at once.
inline bool takes_boxes(const void* pointer, std::initializer_list<std::int64_t> strides) {
    return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0 &&
           std::all_of(strides.begin(), strides.end(), [](std::int64_t s) { return s > 0 && s % 8 == 0; });
}
inline bool takes_boxes(const Branch& branch) {
    return takes_boxes(branch.weight, {branch.w_o, branch.shape.side == 3 ? branch.w_tap : 8});
}

/// The tensor map of `channels` channels [N, H, W, channels], boxes of 64 of them and `box` pixels.
inline Status encode_pixels(const void* pointer, const Branches& branches, int channels, std::int64_t n, std::int64_t h,
                            std::int64_t w, Extent box, TensorMap& map) {
    const Extent size = branches.map;
    return encode_tensor_map({pointer,
                              branches.dtype,
                              4,
                              {channels, size.w, size.h, size.n},
                              {1, w, h, n},
                              {64, box.w, box.h, box.n},
                              Swizzle::b128},
                             map);
}

/// The tensor map of a branch's weights [O, k * k, C], boxes of 64 channels of one tap of `outputs` outputs.
inline Status encode_weights(const Branches& branches, const Branch& branch, int outputs, TensorMap& map) {
    const int taps = branch.shape.side * branch.shape.side;
    return encode_tensor_map({branch.weight,
                              branches.dtype,
                              3,
                              {branches.c, taps, branch.shape.o},
                              {1, taps > 1 ? branch.w_tap : branch.w_o, branch.w_o},
                              {64, 1, outputs},
                              Swizzle::b128},
                             map);
}

/// Call `body` with the BranchTile of a call's dtype and precision.
template <bool A_BY_DEPTH, bool B_BY_DEPTH, class Body>
Status visit_tile(const Branches& branches, Body&& body) {
    switch (branches.dtype) {
        case Dtype::f16:
            return body(Type<BranchTile<half, false, A_BY_DEPTH, B_BY_DEPTH>>{});
        case Dtype::bf16:
            return body(Type<BranchTile<bf16, false, A_BY_DEPTH, B_BY_DEPTH>>{});
        default:
            return branches.tf32 ? body(Type<BranchTile<float, true, A_BY_DEPTH, B_BY_DEPTH>>{})
                                 : body(Type<BranchTile<float, false, A_BY_DEPTH, B_BY_DEPTH>>{});
    }
}

/// Call `body` with the element type of a call.
template <class Body>
Status visit_element(const Branches& branches, Body&& body) {
    return visit_dtype(branches.dtype, [&]<class T>(Type<T>) -> Status {
        if constexpr (std::is_same_v<T, double>)
            return fail("float64 has no kernel");
        else
            return body(Type<T>{});
    });
}

/// Number the blocks of every branch, per_branch(shape) each, in `first`; returns how many there are.
template <class PerBranch>
int number_blocks(const Branches& branches, int (&first)[MAX_BRANCHES], PerBranch&& per_branch) {
    int sum = 0;
    for (int b = 0; b < branches.count; ++b) {
        first[b] = sum;
        sum += per_branch(branches.branch[b].shape);
    }
    return sum;
}

/// A number that no scratch memory holds by chance, another for every launch.
inline std::uint64_t next_epoch() {
    static std::atomic<std::uint64_t> epoch =
        (std::uint64_t{std::random_device{}()} << 32 | std::random_device{}()) | 1;
    return epoch += 2;
}

/// Fill in what the schedule decides.
template <class G>
void plan(DilatedBranchesFwdParams& p, int pair) {
    BranchShape shapes[MAX_BRANCHES];
    for (int b = 0; b < p.branches.count; ++b) shapes[b] = p.branches.branch[b].shape;
    p.tile = pixel_tile(p.branches.map, tile_pixels);
    p.epoch = next_epoch();
    p.schedule = make_schedule(p.branches.map, p.tile, shapes, p.branches.count, p.branches.c, G::COLS, G::DEPTH, pair,
                               p.blocks / pair);
    // A share of a few steps is not worth the cut that it brings.
    p.schedule.workers = smaller(p.schedule.workers, ceil_div(p.schedule.total, 8));
}

/// What the plan of `p` comes to, with tiles of G.
template <class G>
Status report(DilatedBranchesFwdParams p, bool sm90, BranchesPlan& out) {
    plan<G>(p, sm90 ? 2 : 1);
    const Schedule& s = p.schedule;
    out = {sm90, p.tile, G::COLS, s.pair, s.workers, 1LL * s.total * s.pair, 0, 0, 0, G::DEPTH};
    for (int b = 0; b < p.branches.count; ++b) {
        const int side = p.branches.branch[b].shape.side;
        out.dense += 1LL * branches_pixel_tiles(p.branches) * s.o_tiles[b] * side * side * s.k_steps;
    }
    for (int w = 0; w < s.workers; ++w) {
        const int begin = boundary(s, w), end = boundary(s, w + 1);
        out.largest = larger(out.largest, end - begin);
        if (begin < end && segment_at(s, begin, end).begin > 0) ++out.cuts;
    }
    return {};
}

}  // namespace pk
