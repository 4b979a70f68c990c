// Edges, bands and blocks of pyramid_pool.
#include <algorithm>
#include <vector>

#include "pyramid_pool/plan.h"

namespace pk::pool {
namespace {

constexpr int64_t int_max = 2147483647;

/// Blocks are split only where each would otherwise read for about as long as a second launch takes.
constexpr int64_t split_pixels = 1024, split_plane = 8192;

/// The sorted edges of all windows along one axis, and `cuts` more at even distances; of the whole axis for a gradient.
Status find_edges(Edges& edges, const Axis* axes, int levels, int cuts, Pass pass) {
    const int64_t size = axes[0].size;
    std::vector<int> found;
    found.reserve(512);
    for (int level = 0; level < levels; ++level)
        for (int i = 0; i < axes[level].count; ++i) {
            found.push_back(axes[level].start(i));
            found.push_back(axes[level].end(i));
        }
    if (pass == Pass::backward) found.insert(found.end(), {0, static_cast<int>(size)});
    const int end = *std::max_element(found.begin(), found.end());
    for (int64_t r = 1; r < cuts; ++r)
        if (r * size / cuts < end) found.push_back(static_cast<int>(r * size / cuts));
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    edges.wide = size > 65535;
    const int count = static_cast<int>(found.size());
    PK_CHECK(count <= edges.most(), "the bins of all levels have ", count, " edges along an axis of ", size,
             ", at most ", edges.most(), " are possible; use fewer bins or levels, or another backend");
    edges.count = count - 1;
    for (int i = 0; i < count; ++i) {
        if (edges.wide) {
            edges.wide_at[i] = found[i];
        } else {
            edges.narrow_at[i] = static_cast<unsigned short>(found[i]);
        }
    }
    return {};
}

Status find_axes(Plan& plan, const PyramidPoolBins& pyramid) {
    constexpr int most = PyramidPoolBins::max_levels, most_bins = PyramidPoolBins::max_bins;
    PK_CHECK(1 <= pyramid.levels && pyramid.levels <= most, "1 to ", most, " levels, got ", pyramid.levels);
    int64_t cells = 0;
    for (int level = 0; level < pyramid.levels; ++level) {
        const auto& [rows, cols] = pyramid.bins[level];
        PK_CHECK(larger(rows, cols) <= most_bins, "at most ", most_bins, " bins along an axis, got ", rows, " x ",
                 cols);
        PK_TRY(axis_windows(rows, plan.h, pyramid.windows, plan.rows[level]));
        PK_TRY(axis_windows(cols, plan.w, pyramid.windows, plan.cols[level]));
        cells += int64_t{plan.rows[level].count} * plan.cols[level].count;
    }
    plan.levels = pyramid.levels;
    plan.cells = static_cast<int>(cells);
    return {};
}

/// Share out slabs of channels. Rows are cut until every warp has about four rectangles.
int share_slabs(Plan& plan, int itemsize, int processors, Pass pass) {
    const int64_t pixels = int64_t{plan.h} * plan.w, rectangles = int64_t{plan.y.count} * plan.x.count;
    plan.slab = slab_bytes / itemsize;
    const bool idle = int64_t{plan.n} * ceil_div(plan.c, 64) < processors && pixels >= split_pixels;
    plan.split = pass == Pass::forward && (rectangles > slab_rectangles || idle);
    const int64_t bands = ceil_div<int64_t>(4 * processors, larger<int64_t>(plan.groups(), 1));
    plan.bands =
        plan.split || pass == Pass::backward ? std::clamp<int64_t>(bands, 1, ceil_div<int64_t>(pixels, 256)) : 1;
    const int64_t useful = larger<int64_t>(pixels / 8, plan.bands);
    return static_cast<int>(ceil_div<int64_t>(smaller<int64_t>(4 * warps * plan.bands, useful), plan.x.count));
}

/// Share out planes. Rows are cut until every warp has about two intervals of rows.
int share_planes(Plan& plan, int processors, Pass pass) {
    const int64_t pixels = int64_t{plan.h} * plan.w, total = int64_t{plan.n} * plan.c;
    const int64_t rectangles = int64_t{plan.y.count} * plan.x.count;
    plan.split =
        pass == Pass::forward && (rectangles > plane_rectangles || (total < processors && pixels >= split_plane));
    plan.planes =
        plan.split ? 1 : static_cast<int>(std::clamp<int64_t>(ceil_div<int64_t>(total, 4 * processors), 1, max_planes));
    const int64_t bands = ceil_div<int64_t>(4 * processors, larger<int64_t>(plan.groups(), 1));
    const bool shared = plan.split || (pass == Pass::backward && plan.planes == 1);
    plan.bands = shared ? std::clamp<int64_t>(bands, 1, ceil_div<int64_t>(pixels, 2048)) : 1;
    const int64_t useful = larger<int64_t>(pixels / 256, plan.bands);
    const int64_t wanted = smaller(ceil_div<int64_t>(2 * warps * plan.bands, plan.planes), useful);
    if (plan.split || pass == Pass::backward) return static_cast<int>(wanted);
    return static_cast<int>(smaller<int64_t>(wanted, plane_rectangles / plan.x.count - plan.y.count));
}

/// Bands and planes that the rectangles leave room for.
void fit(Plan& plan, int itemsize) {
    plan.bands = smaller(plan.bands, plan.y.count);
    if (plan.inner) return;
    const int most = larger(1, plane_rectangles / plan.x.count);  // intervals of rows
    plan.bands = larger(plan.bands, ceil_div(plan.y.count, most));
    if (plan.bands > 1) plan.planes = 1;
    plan.planes = std::clamp(plane_rectangles / 2 / (plan.y.count * plan.x.count), 1, plan.planes);
    const int64_t room = stage_bytes / itemsize / (int64_t{plan.h} * plan.w);
    plan.staged = static_cast<int>(std::clamp<int64_t>(room, 1, plan.planes));
}

}  // namespace

Status make_plan(Plan& plan, const int64_t (&size)[4], int64_t sc, int64_t sw, const PyramidPoolBins& pyramid,
                 int itemsize, int processors, Pass pass) {
    const auto& [n, c, h, w] = size;
    PK_CHECK(n >= 0 && c >= 1 && h >= 1 && w >= 1, "sizes must be positive, got ", n, " x ", c, " x ", h, " x ", w);
    PK_CHECK(n * c <= int_max && h * w <= int_max, "N * C and H * W must be below 2^31, got ", n * c, " and ", h * w);
    PK_CHECK(processors >= 1, "the device must have multiprocessors, got ", processors);
    plan.n = static_cast<int>(n), plan.c = static_cast<int>(c);
    plan.h = static_cast<int>(h), plan.w = static_cast<int>(w);
    plan.inner = (sc == 1 && sw != 1) || w > max_stage_row || h * w == 1;
    plan.slab = plan.planes = plan.staged = 1;
    PK_TRY(find_axes(plan, pyramid));
    PK_TRY(find_edges(plan.x, plan.cols, plan.levels, 0, pass));
    PK_TRY(find_edges(plan.y, plan.rows, plan.levels, 0, pass));
    int cuts = plan.inner ? share_slabs(plan, itemsize, processors, pass) : share_planes(plan, processors, pass);
    cuts = smaller(smaller(cuts, plan.h), plan.y.most() - 1 - plan.y.count);
    if (cuts > plan.y.count) PK_TRY(find_edges(plan.y, plan.rows, plan.levels, cuts, pass));
    fit(plan, itemsize);
    return {};
}

}  // namespace pk::pool
