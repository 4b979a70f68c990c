// Gradients on Hopper, who computes what: units of two tiles for a pair of CTAs, longest first, pure functions of the
// problem on host and device. A worker is a pair of CTAs; it takes one unit in every round.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "dilated_branches/schedule.h"

namespace pk {

/// A matrix of tiles by twos. Tiles of one column multiply the same B, tiles of one row the same A: a unit is two
/// neighbours of a column or, in the last of an odd number of rows, of that row, where the second may be missing.
struct TilePairs {
    int rows, cols;

    struct Tile {
        int row, col;
        bool shares_b;
    };
    PK_HD int units() const { return rows / 2 * cols + rows % 2 * ceil_div(cols, 2); }
    PK_HD Tile tile(int unit, int rank) const {
        const int pairs = rows / 2, columns = pairs * cols;
        if (unit < columns) return {unit % pairs * 2 + rank, unit / pairs, true};
        return {rows - 1, (unit - columns) * 2 + rank, false};
    }
};

/// Rounds go over the workers to and fro: whose unit is the longest of one round has the shortest of the next. The turn
/// of a worker in a round, and the worker of a turn.
PK_HD int turn(int worker, int workers, int round) { return round % 2 ? workers - 1 - worker : worker; }

/// body(group, unit of the group) for every unit of a worker; units_of(group) many stand in a row, group after group.
template <class UnitsOf, class Body>
PK_HD void for_each_unit(int worker, int workers, int units, UnitsOf&& units_of, Body&& body) {
    int group = 0, first = 0;
    for (int round = 0; round * workers < units; ++round) {
        const int unit = round * workers + turn(worker, workers, round);
        if (unit >= units) continue;
        for (int own; unit >= first + (own = units_of(group)); ++group) first += own;
        body(group, unit - first);
    }
}

/// What the host plans: tiles whose groups stand the deepest first, and the steps of each group's units.
template <class Tiles>
struct PlannedUnits {
    Tiles tiles;
    std::vector<int> depth;

    /// Sort the first `count` groups of `found` by depth_of(name); with equal depth they keep their order.
    template <class DepthOf>
    PlannedUnits(const Tiles& found, int count, DepthOf&& depth_of) : tiles(found) {
        std::vector<std::pair<int, std::uint16_t>> groups;
        for (int i = 0; i < count; ++i) groups.emplace_back(depth_of(found.group[i]), found.group[i]);
        std::stable_sort(groups.begin(), groups.end(), [](auto& a, auto& b) { return a.first > b.first; });
        for (int i = 0; i < count; ++i) {
            depth.push_back(groups[i].first);
            tiles.group[i] = groups[i].second;
            tiles.units += tiles.units_of(i);
        }
    }

    /// Steps of the longest of the workers' shares, with those that an epilogue is worth.
    int longest_share(int workers) const {
        constexpr int epilogue = 3;
        std::vector<int> steps(static_cast<std::size_t>(workers));
        for (int group = 0, unit = 0; unit < tiles.units; ++group)
            for (const int end = unit + tiles.units_of(group); unit < end; ++unit)
                steps[turn(unit % workers, workers, unit / workers)] += depth[group] + epilogue;
        return *std::max_element(steps.begin(), steps.end());
    }
};

/// Tiles of pixels by their live taps. Along each axis tiles form bands in which every branch has the same live
/// offsets; a group is a band of rows and a band of columns.
struct BandedTiles {
    static constexpr int MAX_BANDS = 2 * MAX_BRANCHES + 1;  // a branch's live offsets change twice at most

    std::uint16_t row[MAX_BANDS + 1], col[MAX_BANDS + 1];  // each band's first tile, then the end
    std::uint16_t group[MAX_BANDS * MAX_BANDS];            // row band * MAX_BANDS + column band, the deepest first
    std::int32_t units, images, c_tiles;

    /// Positions of a group's tiles by blocks of channels: positions multiply the same weights.
    PK_HD TilePairs pairs(int i) const {
        const int r = group[i] / MAX_BANDS, c = group[i] % MAX_BANDS;
        return {(row[r + 1] - row[r]) * (col[c + 1] - col[c]) * images, c_tiles};
    }
    PK_HD int units_of(int i) const { return pairs(i).units(); }
    PK_HD TilePlace place(int i, int position, Extent tile) const {
        const int r = group[i] / MAX_BANDS, c = group[i] % MAX_BANDS;
        const int ny = row[r + 1] - row[r], nx = col[c + 1] - col[c];
        return {position / (nx * ny) * tile.n, (row[r] + position / nx % ny) * tile.h,
                (col[c] + position % nx) * tile.w, 0};
    }
};

/// Steps of `depth` output channels of one branch over the live taps of the tile at `place`.
PK_HD int live_steps(Extent map, Extent tile, BranchShape shape, const TilePlace& place, int depth) {
    return live_taps(live_group(map, tile, shape, place)) * ceil_div(shape.o, depth);
}

inline PlannedUnits<BandedTiles> banded_tiles(Extent map, Extent tile, const BranchShape* shape, int count, int c_tiles,
                                              int depth) {
    BandedTiles t{};
    t.images = ceil_div(map.n, tile.n), t.c_tiles = c_tiles;
    const auto bands = [&](int size, int step, std::uint16_t* first) {
        const int tiles = ceil_div(size, step);
        int found = 0;
        for (int i = 0; i < tiles; ++i) {
            const bool same = i > 0 && std::all_of(shape, shape + count, [&](BranchShape branch) {
                                  return detail::live_offsets(size, i * step, step, branch) ==
                                         detail::live_offsets(size, (i - 1) * step, step, branch);
                              });
            if (!same) first[found++] = static_cast<std::uint16_t>(i);
        }
        first[found] = static_cast<std::uint16_t>(tiles);
        return found;
    };
    const int rows = bands(map.h, tile.h, t.row), cols = bands(map.w, tile.w, t.col);
    for (int i = 0; i < rows * cols; ++i)
        t.group[i] = static_cast<std::uint16_t>(i / cols * BandedTiles::MAX_BANDS + i % cols);
    const auto depth_of = [&](int name) {
        const TilePlace place{0, t.row[name / BandedTiles::MAX_BANDS] * tile.h,
                              t.col[name % BandedTiles::MAX_BANDS] * tile.w, 0};
        int steps = 0;
        for (int b = 0; b < count; ++b) steps += live_steps(map, tile, shape[b], place, depth);
        return steps;
    };
    return {t, rows * cols, depth_of};
}

/// Weight gradients by branch and tap, each cut into as many splits of its pixels.
struct TapTiles {
    std::uint16_t group[MAX_GROUPS];  // branch * 9 + tap, the deepest first
    std::int32_t units, o_tiles[MAX_BRANCHES], c_tiles, splits;

    PK_HD int branch(int i) const { return group[i] / 9; }
    PK_HD int tap(int i) const { return group[i] % 9; }
    /// Blocks of output by blocks of input channels: output channels multiply the same x.
    PK_HD TilePairs pairs(int i) const { return {o_tiles[branch(i)], c_tiles}; }
    PK_HD int units_of(int i) const { return pairs(i).units() * splits; }
};

/// The boxes of pixels that cover a tap's rectangle, in all images.
struct TapBoxes {
    TapRectangle area;
    int across, down, images;
    PK_HD TapBoxes(Extent map, Extent box, BranchShape shape, int tap)
        : area(map, shape, tap),
          across(ceil_div(area.cols, box.w)),
          down(ceil_div(area.rows, box.h)),
          images(ceil_div(map.n, box.n)) {}
    PK_HD int count() const { return across * down * images; }

    struct At {
        int x, y, image;
    };
    PK_HD At at(int i, Extent box) const {
        return {area.x0 + i % across * box.w, area.y0 + i / across % down * box.h, i / (across * down) * box.n};
    }
};

inline PlannedUnits<TapTiles> tap_tiles(Extent map, Extent box, const BranchShape* shape, int count, int block_o,
                                        int c_tiles, int splits) {
    TapTiles t{};
    t.c_tiles = c_tiles, t.splits = splits;
    int taps = 0;
    for (int b = 0; b < count; ++b) {
        t.o_tiles[b] = ceil_div(shape[b].o, block_o);
        for (int tap = 0; tap < shape[b].side * shape[b].side; ++tap)
            t.group[taps++] = static_cast<std::uint16_t>(9 * b + tap);
    }
    const auto depth_of = [&](int name) {
        return ceil_div(TapBoxes(map, box, shape[name / 9], name % 9).count(), splits);
    };
    return {t, taps, depth_of};
}

}  // namespace pk
