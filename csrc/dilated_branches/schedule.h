// Who multiplies what: pure functions of the problem and the number of workers, the same on host and device.
//
// A tile is one pixel tile (images x rows x columns) and one block of output channels of one branch. Its depth is its
// live taps times the k-steps over input channels; a tap is live where its shifted rectangle meets the map. Tiles of
// one branch with the same live taps form a group: a rectangle of tile rows and columns. Two tiles of a group and of
// one block of output channels read the same weights: where a worker is a pair of blocks, they are one unit, else each
// is. All steps of all units stand in one row; worker w takes the w-th of equal, contiguous shares (stream-K). A unit
// cut between shares belongs to the worker that starts it: the others store partial sums at the beginning of their
// shares, long before the owner, at the end of its own, adds them in order. So no tickets and no counters: boundaries
// are a function of the problem alone.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/hd.h"

namespace pk {

constexpr int MAX_BRANCHES = 8;
constexpr int MAX_GROUPS = 9 * MAX_BRANCHES;  // along each axis a branch has at most three sets of live taps

/// The branch that holds `index` of a row in which those of all branches stand, branch b's from first[b] on.
template <class Index>
PK_HD int branch_of(const Index (&first)[MAX_BRANCHES], int count, std::type_identity_t<Index> index) {
    int b = 0;
    while (b + 1 < count && index >= first[b + 1]) ++b;
    return b;
}

/// Images, rows and columns: of a batch of maps, or of one pixel tile.
struct Extent {
    int n, h, w;
};

/// One convolution: output channels, side of its kernel (1 or 3), dilation.
struct BranchShape {
    int o, side, dilation;
};

/// Tiles of one branch whose live taps are the same. Bit i of `rows`, `cols`: the tap offset (i - 1) * dilation is
/// live.
struct Group {
    std::uint8_t branch, rows, cols;
    std::uint16_t y0, ny, x0, nx;  // its tile rows and columns
    std::int32_t units;            // tiles or pairs of them, each of `depth` steps
    std::int32_t depth;
    std::int32_t first;  // steps before the group
};

struct Schedule {
    Group groups[MAX_GROUPS];
    int count;
    int total;  // steps of all units
    int workers;
    int pair;  // tiles per unit, and blocks per worker: 1 or 2
    int k_steps;
    int image_groups;  // pixel tiles over the batch
    int o_tiles[MAX_BRANCHES];
};

/// Steps [begin, end) of one unit.
struct Segment {
    int group, unit, begin, end;
};

/// Where a tile lies: its first image, row and column, and its block of output channels.
struct TilePlace {
    int image, y, x, o_tile;
};

namespace detail {

/// Which offsets -dilation, 0, dilation of positions [first, first + tile) of an axis meet it.
PK_HD unsigned live_offsets(int size, int first, int tile, BranchShape branch) {
    if (branch.side == 1) return 2;
    const int last = smaller(first + tile, size) - 1;
    return 2u | (last - branch.dilation >= 0 ? 1u : 0u) | (first + branch.dilation < size ? 4u : 0u);
}

/// Tile rows (or columns) [first, first + count) with the live offsets `mask`.
struct Band {
    int first, count;
    unsigned mask;
};

/// The bands of one axis, in order; returns how many.
inline int bands(int size, int tile, BranchShape branch, Band (&found)[3]) {
    const int tiles = ceil_div(size, tile);
    int count = 0;
    for (int t = 0; t < tiles; ++t) {
        const unsigned mask = live_offsets(size, t * tile, tile, branch);
        if (count > 0 && found[count - 1].mask == mask) {
            ++found[count - 1].count;
        } else {
            found[count++] = {t, 1, mask};
        }
    }
    return count;
}

PK_HD int bits(unsigned mask) { return static_cast<int>((mask & 1) + (mask >> 1 & 1) + (mask >> 2 & 1)); }

}  // namespace detail

/// The schedule of `branches` on `map`, tiles of `tile` pixels and `block_o` channels, over `workers` workers.
inline Schedule make_schedule(Extent map, Extent tile, const BranchShape* branches, int count, int channels,
                              int block_o, int block_k, int pair, int workers) {
    Schedule s{};
    s.workers = workers;
    s.pair = pair;
    s.k_steps = ceil_div(channels, block_k);
    s.image_groups = ceil_div(map.n, tile.n);
    for (int b = 0; b < count; ++b) {
        s.o_tiles[b] = ceil_div(branches[b].o, block_o);
        detail::Band rows[3], cols[3];
        const int row_bands = detail::bands(map.h, tile.h, branches[b], rows);
        const int col_bands = detail::bands(map.w, tile.w, branches[b], cols);
        for (int i = 0; i < row_bands; ++i) {
            for (int j = 0; j < col_bands; ++j) {
                const int positions = rows[i].count * cols[j].count * s.image_groups;
                Group& g = s.groups[s.count++];
                g = {static_cast<std::uint8_t>(b),
                     static_cast<std::uint8_t>(rows[i].mask),
                     static_cast<std::uint8_t>(cols[j].mask),
                     static_cast<std::uint16_t>(rows[i].first),
                     static_cast<std::uint16_t>(rows[i].count),
                     static_cast<std::uint16_t>(cols[j].first),
                     static_cast<std::uint16_t>(cols[j].count),
                     ceil_div(positions, pair) * s.o_tiles[b],
                     detail::bits(rows[i].mask) * detail::bits(cols[j].mask) * s.k_steps,
                     s.total};
                s.total += g.units * g.depth;
            }
        }
    }
    return s;
}

/// The group that holds `step`.
PK_HD int group_of(const Schedule& s, int step) {
    int g = 0;
    while (g + 1 < s.count && s.groups[g + 1].first <= step) ++g;
    return g;
}

/// Where worker w's share begins. A boundary within a few steps of a unit's edge moves there: a cut costs more, as long
/// as they are few beside the share.
PK_HD int boundary(const Schedule& s, int w) {
    const int snap = smaller(4, s.total / s.workers / 64);
    const int step = static_cast<int>(static_cast<std::int64_t>(s.total) * w / s.workers);
    if (step >= s.total) return s.total;
    const Group& g = s.groups[group_of(s, step)];
    const int into = (step - g.first) % g.depth;
    if (into <= snap) return step - into;
    return g.depth - into <= snap ? step - into + g.depth : step;
}

/// The segment that begins at `step`, in a share that ends at `end`.
PK_HD Segment segment_at(const Schedule& s, int step, int end) {
    const int group = group_of(s, step);
    const Group& g = s.groups[group];
    const int unit = (step - g.first) / g.depth;
    const int start = g.first + unit * g.depth;
    return {group, unit, step - start, smaller(end - start, g.depth)};
}

/// The last worker that holds a part of `segment`'s unit, which worker w began: w + 1 to this one store partial sums.
PK_HD int last_partner(const Schedule& s, const Segment& segment, int w) {
    const Group& g = s.groups[segment.group];
    const int unit_end = g.first + (segment.unit + 1) * g.depth;
    while (w + 1 < s.workers && boundary(s, w + 1) < unit_end) ++w;
    return w;
}

/// The place of a unit's tile number `rank`; false where the last pair of a group has only one.
PK_HD bool place_of(const Schedule& s, const Group& g, Extent tile, int unit, int rank, TilePlace& place) {
    const int positions = g.nx * g.ny * s.image_groups, pairs = ceil_div(positions, s.pair);
    const int position = unit % pairs * s.pair + rank;
    place.o_tile = unit / pairs;
    place.x = (g.x0 + position % g.nx) * tile.w;
    place.y = (g.y0 + position / g.nx % g.ny) * tile.h;
    place.image = position / (g.nx * g.ny) * tile.n;
    return position < positions;
}

/// How many taps of a group are live.
PK_HD int live_taps(const Group& g) { return detail::bits(g.rows) * detail::bits(g.cols); }

/// The group, as far as taps go, of the tile at `place`.
PK_HD Group live_group(Extent map, Extent tile, BranchShape branch, const TilePlace& place) {
    Group g{};
    g.rows = static_cast<std::uint8_t>(detail::live_offsets(map.h, place.y, tile.h, branch));
    g.cols = static_cast<std::uint8_t>(detail::live_offsets(map.w, place.x, tile.w, branch));
    return g;
}

/// Tile `index` where tiles of all positions stand in one row, blocks of `o_tiles` channels first.
PK_HD TilePlace plain_place(Extent map, Extent tile, int o_tiles, int index) {
    const int tiles_w = ceil_div(map.w, tile.w), tiles_h = ceil_div(map.h, tile.h);
    const int position = index / o_tiles;
    return {position / (tiles_w * tiles_h) * tile.n, position / tiles_w % tiles_h * tile.h, position % tiles_w * tile.w,
            index % o_tiles};
}

/// The offset in rows and columns of live tap `index` of a group, and its number in the 3x3 kernel (0 for a 1x1).
struct Tap {
    int dy, dx, number;
};
PK_HD Tap tap_of(const Group& g, BranchShape branch, int index) {
    const int live_cols = detail::bits(g.cols);
    int row = -1, col = -1;
    for (int skip = index / live_cols; skip >= 0;) skip -= (g.rows >> ++row) & 1;
    for (int skip = index % live_cols; skip >= 0;) skip -= (g.cols >> ++col) & 1;
    return {(row - 1) * branch.dilation, (col - 1) * branch.dilation, branch.side == 3 ? 3 * row + col : 0};
}

/// The pixels whose tap lies inside the map: the exact rectangle that the tap's gradient sums over.
struct TapRectangle {
    int dy, dx, y0, x0, rows, cols;
    PK_HD TapRectangle(Extent map, BranchShape shape, int tap)
        : dy((tap / shape.side - shape.side / 2) * shape.dilation),
          dx((tap % shape.side - shape.side / 2) * shape.dilation),
          y0(larger(0, -dy)),
          x0(larger(0, -dx)),
          rows(larger(0, map.h - (dy < 0 ? -dy : dy))),
          cols(larger(0, map.w - (dx < 0 ? -dx : dx))) {}
};

/// Near-square rectangles folded over up to 8 images: the smaller the rectangle, the more taps it can skip.
inline Extent pixel_tile(Extent map, int pixels) {
    const auto up = [](int v) {
        int p = 1;
        while (p < v) p *= 2;
        return p;
    };
    int n = smaller(8, up(map.n));
    int side = 1;
    while (side * side * 4 <= pixels / n) side *= 2;
    if (side * side * 2 <= pixels / n) side *= 2;  // rows of pixels stay contiguous
    const int w = smaller(up(map.w), side);
    const int h = smaller(up(map.h), pixels / (n * w));
    n = pixels / (h * w);
    return {n, h, w};
}

}  // namespace pk
