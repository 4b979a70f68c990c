// The static stream-K schedule of dilated_branches: thousands of random problems.
#include "dilated_branches/schedule.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

#include "hostsim/tests/check.h"

namespace {

using namespace pk;
using test::Random;

struct Problem {
    Extent map, tile;
    std::vector<BranchShape> branches;
    int c, block_o, pair, workers;
    Schedule make() const {
        return make_schedule(map, tile, branches.data(), static_cast<int>(branches.size()), c, block_o, 64, pair,
                             workers);
    }
};

Problem draw(Random& random) {
    Problem p{};
    p.map = {random.integer(1, 9), random.integer(1, 40), random.integer(1, 40)};
    p.tile = pixel_tile(p.map, 128);
    for (int b = random.integer(1, MAX_BRANCHES); b > 0; --b)
        p.branches.push_back(
            {random.integer(1, 600), random.integer(0, 2) ? 3 : 1, random.integer(1, random.integer(0, 3) ? 12 : 60)});
    p.c = random.integer(1, 700);
    p.block_o = random.integer(1, 2) * 128;
    p.pair = random.integer(1, 2);
    p.workers = random.integer(1, 150);
    return p;
}

bool is_live(int first, int tile, int size, int offset) {
    for (int i = first; i < smaller(first + tile, size); ++i)
        if (0 <= i + offset && i + offset < size) return true;
    return false;
}

/// Shares follow one another, are equal but for what is snapped, and hold every step once; whoever starts a unit knows
/// who holds the rest of it.
void check_shares(const Schedule& s) {
    std::vector<char> held(static_cast<size_t>(s.total));
    int before = 0, longest = 0;
    for (int w = 0; w < s.workers; ++w) {
        const int begin = boundary(s, w), end = boundary(s, w + 1);
        CHECK(begin == before);
        before = end;
        longest = larger(longest, end - begin);
        for (int step = begin; step < end;) {
            const Segment segment = segment_at(s, step, end);
            const Group& g = s.groups[segment.group];
            for (int k = segment.begin; k < segment.end; ++k)
                CHECK(!std::exchange(held[static_cast<size_t>(g.first + segment.unit * g.depth + k)], 1));
            CHECK(segment.begin == 0 || step == begin, "a worker has scratch for one unit that it did not start");
            const int last = last_partner(s, segment, w);
            for (int other = w + 1; segment.begin == 0 && other <= last; ++other) {
                const Segment part = segment_at(s, boundary(s, other), boundary(s, other + 1));
                CHECK(part.group == segment.group && part.unit == segment.unit && part.begin > 0);
            }
            CHECK(segment.begin > 0 || (last == w) == (segment.end == g.depth));
            step += segment.end - segment.begin;
        }
    }
    CHECK(before == s.total);
    CHECK(std::count(held.begin(), held.end(), 1) == s.total);
    CHECK(longest <= ceil_div(s.total, s.workers) + 8, longest, " of ", s.total, " for ", s.workers);
}

/// Units hold every tile once, with exactly the taps that meet the map; a pair reads the same weights.
void check_tiles(const Problem& p, const Schedule& s) {
    std::set<std::tuple<int, int, int, int, int>> seen;
    for (int i = 0; i < s.count; ++i) {
        const Group& g = s.groups[i];
        const BranchShape shape = p.branches[g.branch];
        for (int unit = 0; unit < g.units; ++unit) {
            TilePlace place, first;
            place_of(s, g, p.tile, unit, 0, first);
            for (int rank = 0; rank < p.pair; ++rank) {
                if (!place_of(s, g, p.tile, unit, rank, place)) {
                    CHECK(rank == 1);
                    continue;
                }
                CHECK(place.o_tile == first.o_tile);
                CHECK(seen.insert({g.branch, place.image, place.y, place.x, place.o_tile}).second);
                int taps = 0;
                for (int number = 0; number < shape.side * shape.side; ++number) {
                    const int dy = (number / shape.side - shape.side / 2) * shape.dilation;
                    const int dx = (number % shape.side - shape.side / 2) * shape.dilation;
                    if (!is_live(place.y, p.tile.h, p.map.h, dy) || !is_live(place.x, p.tile.w, p.map.w, dx)) continue;
                    const Tap tap = tap_of(g, shape, taps++);
                    CHECK(tap.dy == dy && tap.dx == dx && tap.number == number);
                }
                CHECK(taps * s.k_steps == g.depth);
            }
        }
    }
    size_t tiles = 0;
    for (size_t b = 0; b < p.branches.size(); ++b)
        tiles += static_cast<size_t>(s.image_groups * ceil_div(p.map.h, p.tile.h) * ceil_div(p.map.w, p.tile.w) *
                                     s.o_tiles[b]);
    CHECK(seen.size() == tiles, seen.size(), " tiles of ", tiles);
}

/// The published shapes: 2048 channels, rates 6, 12, 18 on 32x32, 66 pairs of blocks. Pairs left over cost 3 %.
void check_published() {
    const BranchShape branches[] = {{256, 1, 1}, {256, 3, 6}, {256, 3, 12}, {256, 3, 18}};
    for (const auto& [n, pair, share] : {std::tuple{1, 2, 0.77}, {8, 1, 0.63}, {8, 2, 0.65}, {16, 2, 0.63}}) {
        const Extent map{n, 32, 32}, tile = pixel_tile(map, 128);
        const Schedule s = make_schedule(map, tile, branches, 4, 2048, 256, 64, pair, 132 / pair);
        const double dense = 28 * 32 * (n * 1024 / 128);
        CHECK(s.total * pair <= share * dense, n, " images: ", s.total * pair / dense, " of dense");
        int longest = 0;
        for (int w = 0; w < s.workers; ++w) longest = larger(longest, boundary(s, w + 1) - boundary(s, w));
        CHECK(longest <= 1.03 * s.total / s.workers + 1, n, " images: ", longest, " steps of ", s.total / s.workers);
    }
}

}  // namespace

int main() {
    Random random(1);
    for (int i = 0; i < 2000; ++i) {
        const Problem p = draw(random);
        CHECK(p.tile.n * p.tile.h * p.tile.w == 128);
        const Schedule s = p.make();
        CHECK(s.count <= MAX_GROUPS);
        check_shares(s);
        check_tiles(p, s);
    }
    check_published();
    return test::finish();
}
