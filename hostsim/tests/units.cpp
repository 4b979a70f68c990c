// The gradients' units on Hopper: thousands of random problems.
#include "dilated_branches/units.h"

#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "hostsim/tests/check.h"

namespace {

using namespace pk;
using test::Random;

struct Problem {
    Extent map;
    std::vector<BranchShape> shapes;
    int c_tiles, splits, workers;
    int count() const { return static_cast<int>(shapes.size()); }
};

Problem draw(Random& random) {
    Problem p{{random.integer(1, 9), random.integer(1, 40), random.integer(1, 40)}, {}, 0, 0, 0};
    for (int b = random.integer(1, MAX_BRANCHES); b > 0; --b)
        p.shapes.push_back(
            {random.integer(1, 600), random.integer(0, 2) ? 3 : 1, random.integer(1, random.integer(0, 3) ? 12 : 60)});
    p.c_tiles = random.integer(1, 5);
    p.splits = random.integer(1, 3);
    p.workers = random.integer(1, 70);
    return p;
}

/// Workers take every unit once, and whoever has one more than another has only the last round's more.
template <class UnitsOf, class Body>
void for_every_unit(const Problem& p, int units, UnitsOf&& units_of, Body&& body) {
    std::set<std::pair<int, int>> seen;
    for (int w = 0; w < p.workers; ++w) {
        int own = 0;
        for_each_unit(w, p.workers, units, units_of, [&](int group, int unit) {
            ++own;
            CHECK(unit >= 0 && unit < units_of(group));
            CHECK(seen.insert({group, unit}).second);
            body(group, unit);
        });
        CHECK(own == units / p.workers || own == units / p.workers + 1);
    }
    CHECK(static_cast<int>(seen.size()) == units, seen.size(), " units of ", units);
}

/// A pair has the same column or the same row of tiles; only the second of a row may be missing.
void check_pair(const TilePairs& pairs, int unit, std::set<std::pair<int, int>>& seen) {
    const TilePairs::Tile first = pairs.tile(unit, 0), second = pairs.tile(unit, 1);
    CHECK(first.shares_b == second.shares_b);
    CHECK(first.shares_b ? first.col == second.col : first.row == second.row);
    for (const TilePairs::Tile& tile : {first, second}) {
        CHECK(tile.row < pairs.rows);
        if (tile.col < pairs.cols) CHECK(seen.insert({tile.row, tile.col}).second);
    }
    CHECK(first.col < pairs.cols && (second.col < pairs.cols || !second.shares_b));
}

template <class Tiles>
void check_longest(const Problem& p, const PlannedUnits<Tiles>& planned) {
    int longest = 0;
    for (int w = 0; w < p.workers; ++w) {
        int steps = 0;
        for_each_unit(
            w, p.workers, planned.tiles.units, [&](int group) { return planned.tiles.units_of(group); },
            [&](int group, int) { steps += planned.depth[group] + 3; });
        longest = larger(longest, steps);
    }
    CHECK(planned.longest_share(p.workers) == longest);
}

void check_input(const Problem& p) {
    const Extent tile = pixel_tile(p.map, 128);
    const auto planned = banded_tiles(p.map, tile, p.shapes.data(), p.count(), p.c_tiles, 64);
    const BandedTiles& tiles = planned.tiles;
    std::map<int, std::set<std::pair<int, int>>> seen;
    std::set<std::tuple<int, int, int>> places;
    std::map<int, int> depths;
    for_every_unit(
        p, tiles.units, [&](int group) { return tiles.units_of(group); },
        [&](int group, int unit) {
            check_pair(tiles.pairs(group), unit, seen[group]);
            const TilePlace first = tiles.place(group, 0, tile);
            for (int rank = 0; rank < 2; ++rank) {
                const TilePlace place = tiles.place(group, tiles.pairs(group).tile(unit, rank).row, tile);
                CHECK(place.image < p.map.n && place.y < p.map.h && place.x < p.map.w);
                places.insert({place.image, place.y, place.x});
                int depth = 0;
                for (const BranchShape& shape : p.shapes) {
                    const Group own = live_group(p.map, tile, shape, place);
                    const Group all = live_group(p.map, tile, shape, first);
                    CHECK(own.rows == all.rows && own.cols == all.cols, "a group has one set of live taps");
                    depth += live_steps(p.map, tile, shape, place, 64);
                }
                depths[group] = depth;
            }
        });
    int pixel_tiles = ceil_div(p.map.n, tile.n) * ceil_div(p.map.h, tile.h) * ceil_div(p.map.w, tile.w), held = 0;
    for (const auto& [group, tiles_of] : seen) held += static_cast<int>(tiles_of.size());
    CHECK(static_cast<int>(places.size()) == pixel_tiles && held == pixel_tiles * p.c_tiles);
    for (const auto& [group, depth] : depths) {
        CHECK(depth == planned.depth[group]);
        CHECK(group == 0 || depth <= depths[group - 1], "the deepest come first");
    }
    check_longest(p, planned);
}

void check_weights(const Problem& p) {
    const Extent box = pixel_tile(p.map, 64);
    const auto planned = tap_tiles(p.map, box, p.shapes.data(), p.count(), 128, p.c_tiles, p.splits);
    const TapTiles& tiles = planned.tiles;
    std::map<int, std::set<std::pair<int, int>>> seen;
    for_every_unit(
        p, tiles.units, [&](int group) { return tiles.units_of(group); },
        [&](int group, int unit) {
            if (unit % p.splits == 0) check_pair(tiles.pairs(group), unit / p.splits, seen[group]);
        });
    int depth = 1 << 30, group = 0;
    std::set<std::pair<int, int>> taps;
    for (const BranchShape& shape : p.shapes)
        for (int i = 0; i < shape.side * shape.side; ++i, ++group) {
            const int b = tiles.branch(group), tap = tiles.tap(group);
            CHECK(taps.insert({b, tap}).second && tap < p.shapes[b].side * p.shapes[b].side);
            CHECK(static_cast<int>(seen[group].size()) == ceil_div(p.shapes[b].o, 128) * p.c_tiles);
            const TapBoxes boxes(p.map, box, p.shapes[b], tap);
            CHECK(planned.depth[group] == ceil_div(boxes.count(), p.splits));
            CHECK(planned.depth[group] <= depth, "the deepest come first");
            depth = planned.depth[group];
            std::set<std::tuple<int, int, int>> starts;
            for (int j = 0; j < boxes.count(); ++j) {
                const TapBoxes::At at = boxes.at(j, box);
                CHECK(starts.insert({at.x, at.y, at.image}).second);
                const TapRectangle& area = boxes.area;
                CHECK((at.x - area.x0) % box.w == 0 && at.x < area.x0 + area.cols && at.image % box.n == 0);
                CHECK((at.y - area.y0) % box.h == 0 && at.y < area.y0 + area.rows && at.image < p.map.n);
            }
        }
    check_longest(p, planned);
}

}  // namespace

int main() {
    Random random(1);
    for (int i = 0; i < 500; ++i) {
        const Problem p = draw(random);
        check_input(p);
        check_weights(p);
    }
    return test::finish();
}
