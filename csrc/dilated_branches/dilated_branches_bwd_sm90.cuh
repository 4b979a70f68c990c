// Input and weight gradients of dilated_branches on Hopper, float16 and bfloat16, from dz, the gradient before the
// norms.
//
// A worker is a pair of CTAs that takes units of two tiles (units.h), with the pipeline of hopper.cuh: the producer
// runs ahead into the next unit while the consumers store the one before. Shared bytes: ring 4 x 49,152, panels 32,768
// on their way out, barriers 64, and up to 1,008 to align the ring: 230,448 at COLS = 256. Bound: tensor cores.
#pragma once

#include "dilated_branches/hopper.cuh"
#include "dilated_branches/tile.cuh"
#include "dilated_branches/units.h"

namespace pk {

/// dx: rows are pixels, columns input channels. A is dz as it lies; B, the weights [O][tap][C], has depth O as rows.
template <class T, int COLS>
struct InputGradientCta : HopperCta<T, COLS, false, true> {
    static constexpr size_t EPILOGUE = panel_bytes<InputGradientCta>;
};

/// dw: rows are output channels, columns input channels, depth pixels: the rows of both operands as they lie.
template <class T, int COLS>
struct WeightGradientCta : HopperCta<T, COLS, true, true> {
    static constexpr size_t EPILOGUE = panel_bytes<WeightGradientCta>;
};

struct DilatedBranchesBwdDxSm90Params {
    DilatedBranchesBwdDxParams call;
    BandedTiles tiles;
    bool boxes;  // whether dx takes them
    Extent half;
    TensorMap dz[MAX_BRANCHES];  // [N, H, W, O] of a branch, boxes of 64 channels of half a tile's pixels
    TensorMap w[MAX_BRANCHES];   // [O, k * k, C], boxes of 64 outputs and 64 channels of one tap
    TensorMap dx;                // [N, H, W, C], boxes of 64 channels of half a tile's pixels
};

/// dx. Owns: a tile is 128 pixels and COLS input channels, one accumulator over every branch and live tap. A live tap
/// is a shifted box of dz, zero outside the map and, because each branch has a map of its own, beyond its channels.
/// Tiles with the same live taps share the weights, tiles of the same pixels dz.
template <class G>
__global__ void __launch_bounds__(G::THREADS, 1)
    dilated_branches_bwd_dx_sm90_kernel(const __grid_constant__ DilatedBranchesBwdDxSm90Params p) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)  // its instructions exist nowhere else
    using T = typename G::T;
    const Branches& branches = p.call.branches;
    const Extent map = branches.map, tile = p.call.tile;
    const int rank = static_cast<int>(cluster_rank());
    HopperRing<G> ring;
    // body(first pixel, first channel, whether the pair shares the weights)
    const auto for_each_tile = [&](auto&& body) {
        const auto units_of = [&](int group) { return p.tiles.units_of(group); };
        for_each_unit(blockIdx.x / 2, gridDim.x / 2, p.tiles.units, units_of, [&](int group, int unit) {
            const TilePairs::Tile at = p.tiles.pairs(group).tile(unit, rank);
            body(p.tiles.place(group, at.row, tile), at.col * G::COLS, at.shares_b);
        });
    };
    // The upper or lower half of a tile's pixels.
    const auto half_y = [&](int y, int half) { return y + half * (tile.h - p.half.h); };
    const auto half_image = [&](int image, int half) { return image + half * (tile.n - p.half.n); };

    const auto produce = [&](const TilePlace& place, int c0, bool shares_weights) {
        for (int b = 0; b < branches.count; ++b) {
            const BranchShape shape = branches.branch[b].shape;
            const Group live = live_group(map, tile, shape, place);
            for (int o = 0; o < shape.o; o += G::DEPTH) {
                for (int i = 0; i < live_taps(live); ++i) {
                    const Tap tap = tap_of(live, shape, i);  // dz there meets the opposite tap's weights
                    const int opposite = shape.side == 3 ? 8 - tap.number : 0;
                    const auto load_dz = [&](const BoxTarget& to, int box) {
                        to.load(p.dz[b], o, place.x + tap.dx, half_y(place.y, box) + tap.dy,
                                half_image(place.image, box));
                    };
                    const auto load_w = [&](const BoxTarget& to, int box) {
                        to.load(p.w[b], c0 + 64 * box, opposite, o);
                    };
                    load_stage(ring, rank, shares_weights, load_dz, load_w);
                }
            }
        }
    };
    const auto consume = [&](const TilePlace& place, int c0, bool) {
        int steps = 0;
        for (int b = 0; b < branches.count; ++b)
            steps += live_steps(map, tile, branches.branch[b].shape, place, G::DEPTH);
        float r_acc[G::COUNT];
        multiply_stages(ring, steps, r_acc);
        if (p.boxes) {
            const int half = G::worker() / G::GROUP;
            store_panels<G>(ring.s_epilogue, r_acc, [&](int panel, uint32_t s_panel) {
                tma_store(p.dx, s_panel, c0 + 64 * panel, place.x, half_y(place.y, half),
                          half_image(place.image, half));
            });
        } else {
            for_each_row<G>(r_acc, [&](int row, auto&& for_each_col) {
                const Pixel px = pixel_at(place, tile, map, row);
                if (!px.exists) return;
                T* g_dx = static_cast<T*>(p.call.dx) + px.image * p.call.dx_n + px.y * p.call.dx_h + px.x * p.call.dx_w;
                for_each_col([&](int col, float sum) {
                    if (c0 + col < branches.c) g_dx[(c0 + col) * p.call.dx_c] = narrow<T>(sum);
                });
            });
        }
    };
    run_roles<G>(
        ring, [&] { for_each_tile(produce); },
        [&] {
            for_each_tile(consume);
            finish_stores<G>();
        });
#endif
}

struct DilatedBranchesBwdDwSm90Params {
    DilatedBranchesBwdDwParams call;
    TapTiles tiles;
    bool boxes;                  // whether dw takes them
    Extent box;                  // of 64 pixels
    TensorMap dz[MAX_BRANCHES];  // [N, H, W, O] of a branch, boxes of 64 channels of 64 pixels
    TensorMap x;                 // [N, H, W, C], likewise
    TensorMap dw[MAX_BRANCHES];  // [O, k * k, C], boxes of 64 outputs and 64 channels of one tap
};

/// dw. Owns: a tile is 128 output and COLS input channels of one tap, over its share of the pixels, 64 of them a step:
/// boxes from the first pixel of the tap's rectangle on, of dz there and of x where the tap lies. What a box holds
/// beyond the rectangle meets zeros of x or of dz. Tiles of the same input channels share x, of the same outputs dz.
template <class G>
__global__ void __launch_bounds__(G::THREADS, 1)
    dilated_branches_bwd_dw_sm90_kernel(const __grid_constant__ DilatedBranchesBwdDwSm90Params p) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
    using T = typename G::T;
    const Branches& branches = p.call.branches;
    const int rank = static_cast<int>(cluster_rank()), splits = p.call.splits;
    HopperRing<G> ring;
    struct Tile {
        int b, tap, o0, c0, split;
        bool shares_x;
        TapBoxes boxes;
        int begin, end;  // of its share of the boxes
    };
    const auto for_each_tile = [&](auto&& body) {
        const auto units_of = [&](int group) { return p.tiles.units_of(group); };
        for_each_unit(blockIdx.x / 2, gridDim.x / 2, p.tiles.units, units_of, [&](int group, int unit) {
            const TilePairs::Tile at = p.tiles.pairs(group).tile(unit / splits, rank);
            const int b = p.tiles.branch(group), tap = p.tiles.tap(group), split = unit % splits;
            const TapBoxes boxes(branches.map, p.box, branches.branch[b].shape, tap);
            const int share = ceil_div(boxes.count(), splits), begin = smaller(split * share, boxes.count());
            body(Tile{b, tap, at.row * G::ROWS, at.col * G::COLS, split, at.shares_b, boxes, begin,
                      smaller(begin + share, boxes.count())});
        });
    };
    const auto produce = [&](const Tile& tile) {
        for (int i = tile.begin; i < tile.end; ++i) {
            const TapBoxes::At at = tile.boxes.at(i, p.box);
            const auto load_dz = [&](const BoxTarget& to, int box) {
                to.load(p.dz[tile.b], tile.o0 + 64 * box, at.x, at.y, at.image);
            };
            const auto load_x = [&](const BoxTarget& to, int box) {
                to.load(p.x, tile.c0 + 64 * box, at.x + tile.boxes.area.dx, at.y + tile.boxes.area.dy, at.image);
            };
            load_stage(ring, rank, tile.shares_x, load_dz, load_x);
        }
    };
    const auto consume = [&](const Tile& tile) {
        float r_acc[G::COUNT];
        if (tile.begin < tile.end) {
            multiply_stages(ring, tile.end - tile.begin, r_acc);
        } else {
#pragma unroll
            for (int i = 0; i < G::COUNT; ++i) r_acc[i] = 0;  // a tap that meets no pixel
        }
        if (p.boxes) {
            const int half = G::worker() / G::GROUP;
            store_panels<G>(ring.s_epilogue, r_acc, [&](int panel, uint32_t s_panel) {
                tma_store(p.dw[tile.b], s_panel, tile.c0 + 64 * panel, tile.tap, tile.o0 + 64 * half);
            });
        } else {
            const Branch& branch = branches.branch[tile.b];
            for_each_row<G>(r_acc, [&](int row, auto&& for_each_col) {
                const int o = tile.o0 + row;
                if (o >= branch.shape.o) return;
                const long long line = 1LL * o * branch.shape.side * branch.shape.side + tile.tap;
                float* g_part = splits > 1 ? part_of(p.call, tile.split, tile.b, line) : nullptr;
                T* g_dw = static_cast<T*>(branch.weight) + o * branch.w_o + tile.tap * branch.w_tap;
                for_each_col([&](int col, float sum) {
                    const int c = tile.c0 + col;
                    if (c >= branches.c) return;
                    if (g_part) {
                        g_part[c] = sum;
                    } else {
                        g_dw[c * branch.w_c] = narrow<T>(sum);
                    }
                });
            });
        }
    };
    run_roles<G>(
        ring, [&] { for_each_tile(produce); },
        [&] {
            for_each_tile(consume);
            finish_stores<G>();
        });
#endif
}

}  // namespace pk
