// What the schedule of dilated_branches makes of one problem on a GPU: steps, epilogues and waits of its workers, the
// bytes that they ask DRAM for, and the steps of Hopper's gradients. A model: every worker takes one step at a time,
// side by side with the others.
//
// Usage: schedule_model N H W C TILE_N TILE_H TILE_W COLUMNS PAIR WORKERS (O SIDE DILATION)...
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "dilated_branches/schedule.h"
#include "dilated_branches/units.h"

namespace {

using namespace pk;

// In steps of 128 pixels x 256 channels x 64: an epilogue, storing a tile's partial sums, and adding those of another.
constexpr double EPILOGUE = 2.5, LEAVE = 2.5, TAKE = 3.5;
constexpr int BLOCK_K = 64, LINE = 128;  // channels of a step; bytes of a line, which holds them in bf16
constexpr int MEGABYTES[] = {25, 40, 60};

struct Problem {
    Extent map, tile;
    int channels, columns;
    std::vector<BranchShape> branches;
    Schedule schedule;
};

/// An L2 of 16-way sets, the least recently used line of which goes.
class Cache {
  public:
    explicit Cache(int megabytes) : sets_(megabytes * 1'000'000ull / LINE / WAYS), lines_(sets_ * WAYS) {}

    void touch(std::uint64_t line) {
        std::uint64_t hash = line * 0x9E3779B97F4A7C15ull;
        hash = (hash ^ hash >> 29) * 0xBF58476D1CE4E5B9ull;
        Line* const set = &lines_[(hash ^ hash >> 32) % sets_ * WAYS];
        Line* oldest = set;
        for (Line* l = set; l < set + WAYS; ++l) {
            if (l->number == line) {
                l->used = ++now_;
                return;
            }
            if (l->used < oldest->used) oldest = l;
        }
        *oldest = {line, ++now_};
        ++misses_;
    }

    [[nodiscard]] double megabytes() const { return static_cast<double>(misses_) * LINE / 1e6; }

  private:
    static constexpr int WAYS = 16;
    struct Line {
        std::uint64_t number = ~0ull, used = 0;
    };
    std::uint64_t sets_, now_ = 0, misses_ = 0;
    std::vector<Line> lines_;
};

/// The lines that one step of a unit reads: a shifted box of x for each tile, and its weights, which a pair shares.
void touch(const Problem& p, const Segment& at, int step, Cache& cache) {
    const Schedule& s = p.schedule;
    const Group& g = s.groups[at.group];
    const Tap tap = tap_of(g, p.branches[g.branch], step / s.k_steps);
    const auto k = static_cast<std::uint64_t>(step % s.k_steps), chunks = static_cast<std::uint64_t>(s.k_steps);
    const auto line = [&](std::uint64_t kind, int row) {
        cache.touch(kind << 56 | (static_cast<std::uint64_t>(row) * chunks + k));
    };
    for (int rank = 0; rank < s.pair; ++rank) {
        TilePlace place{};
        if (!place_of(s, g, p.tile, at.unit, rank, place)) continue;
        for (int n = place.image; n < smaller(place.image + p.tile.n, p.map.n); ++n)
            for (int y = larger(0, place.y + tap.dy); y < smaller(place.y + tap.dy + p.tile.h, p.map.h); ++y)
                for (int x = larger(0, place.x + tap.dx); x < smaller(place.x + tap.dx + p.tile.w, p.map.w); ++x)
                    line(1, (n * p.map.h + y) * p.map.w + x);
        if (rank > 0) continue;
        const int o = place.o_tile * p.columns;
        for (int i = o; i < smaller(o + p.columns, p.branches[g.branch].o); ++i) line(2 + g.branch, i * 9 + tap.number);
    }
}

std::vector<Segment> share(const Schedule& s, int worker) {
    std::vector<Segment> segments;
    const int end = boundary(s, worker + 1);
    for (int step = boundary(s, worker); step < end;) {
        segments.push_back(segment_at(s, step, end));
        step += segments.back().end - segments.back().begin;
    }
    return segments;
}

/// When the last worker ends: partial sums are left first, whoever begins a cut unit waits for them and adds them.
double longest(const Schedule& s) {
    std::vector<double> left(static_cast<std::size_t>(s.workers));
    double last = 0;
    for (int w = s.workers - 1; w >= 0; --w) {
        double now = 0;
        for (const Segment& segment : share(s, w)) {
            now += segment.end - segment.begin;
            if (segment.begin > 0) {
                left[static_cast<std::size_t>(w)] = now += LEAVE;
                continue;
            }
            for (int other = w + 1; other <= last_partner(s, segment, w); ++other)
                now = std::max(now, left[static_cast<std::size_t>(other)]) + TAKE;
            now += EPILOGUE;
        }
        last = std::max(last, now);
    }
    return last;
}

double dram(const Problem& p, int megabytes) {
    struct Worker {
        std::vector<Segment> todo;
        std::size_t at = 0;
        int step = 0;
        double busy = 0;  // steps' time left of an epilogue
    };
    std::vector<Worker> workers;
    for (int w = 0; w < p.schedule.workers; ++w) workers.push_back({share(p.schedule, w)});
    Cache cache(megabytes);
    for (bool active = true; active;) {
        active = false;
        for (Worker& w : workers) {
            if (w.at == w.todo.size()) continue;
            active = true;
            if (w.busy >= 1) {
                w.busy -= 1;
                continue;
            }
            const Segment& segment = w.todo[w.at];
            touch(p, segment, segment.begin + w.step, cache);
            if (++w.step == segment.end - segment.begin) w.step = 0, ++w.at, w.busy += EPILOGUE;
        }
    }
    return cache.megabytes();
}

/// The longest share of one of Hopper's gradients, and over the mean.
struct Gradient {
    double longest, over_mean;
};

/// With tiles of 256 or of 128 columns, whichever is sooner done: a step of the latter takes 11 / 20 of the time.
/// units(tiles of columns): what the launcher plans.
template <class Units>
Gradient gradient(const Problem& p, int workers, Units&& units) {
    const auto share = [&](int columns, double step) {
        const auto planned = units(ceil_div(p.channels, columns));
        int all = 0;
        for (std::size_t i = 0; i < planned.depth.size(); ++i)
            all += planned.tiles.units_of(static_cast<int>(i)) * (planned.depth[i] + 3);
        const double longest = planned.longest_share(workers);
        return Gradient{step * longest, longest * workers / all};
    };
    const Gradient wide = share(256, 1), narrow = share(128, 0.55);
    return narrow.longest < wide.longest ? narrow : wide;
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<int> given;
    for (int i = 1; i < argc; ++i) given.push_back(std::atoi(argv[i]));
    if (given.size() < 13 || given.size() % 3 != 1) return 2;
    Problem p{{given[0], given[1], given[2]}, {given[4], given[5], given[6]}, given[3], given[7], {}, {}};
    for (std::size_t i = 10; i < given.size(); i += 3) p.branches.push_back({given[i], given[i + 1], given[i + 2]});
    p.schedule = make_schedule(p.map, p.tile, p.branches.data(), static_cast<int>(p.branches.size()), p.channels,
                               p.columns, BLOCK_K, given[8], given[9]);
    const Schedule& s = p.schedule;
    int units = 0;
    double once = 1.0 * p.map.n * p.map.h * p.map.w;
    for (int g = 0; g < s.count; ++g) units += s.groups[g].units;
    for (const BranchShape& b : p.branches) once += 1.0 * b.o * b.side * b.side;
    std::size_t most = 0, fewest = SIZE_MAX;
    for (int w = 0; w < s.workers; ++w) {
        most = std::max(most, share(s, w).size());
        fewest = std::min(fewest, share(s, w).size());
    }
    std::printf("%.1f %.4f %zu %zu %.1f", longest(s), longest(s) * s.workers / (s.total + EPILOGUE * units), fewest,
                most, once * p.channels * 2 / 1e6);
    for (const int megabytes : MEGABYTES) std::printf(" %.1f", dram(p, megabytes));
    const BranchShape* shapes = p.branches.data();
    const int count = static_cast<int>(p.branches.size());
    const Extent tile = pixel_tile(p.map, 128), box = pixel_tile(p.map, BLOCK_K);
    for (const Gradient g :
         {gradient(p, s.workers, [&](int c) { return banded_tiles(p.map, tile, shapes, count, c, BLOCK_K); }),
          gradient(p, s.workers, [&](int c) { return tap_tiles(p.map, box, shapes, count, 128, c, 1); })})
        std::printf(" %.1f %.4f", g.longest, g.over_mean);
    std::printf("\n");
}
