// pyramid_pool against loops in double: layouts, windowings, dtypes, ties and NaN, bands and the second launch.
#include "pyramid_pool/pyramid_pool.h"

#include "hostsim/hostsim.h"
#include "hostsim/race.h"
#include "tests/check.h"
#include "tests/windows.h"

using namespace pk;
using test::Buffer;

enum class Layout { nchw, nhwc, sliced };

struct Problem {
    const char* name;
    int64_t n, c, h, w;
    std::vector<std::array<int, 2>> bins;
    Windows windows = Windows::adaptive;
    int processors = 4;
};

struct Strides {
    int64_t n, c, h, w, size;
};

Strides strides_of(const Problem& p, Layout layout) {
    if (layout == Layout::nhwc) return {p.h * p.w * p.c, 1, p.w * p.c, p.c, p.n * p.h * p.w * p.c};
    const int64_t row = p.w + (layout == Layout::sliced ? 3 : 0), plane = row * p.h;
    return {plane * p.c, plane, row, 1, p.n * p.c * plane};
}

struct Cell {
    test::Window y, x;
};

std::vector<Cell> cells_of(const Problem& p) {
    std::vector<Cell> cells;
    for (const auto& [rows, cols] : p.bins)
        for (const test::Window& y : test::defined_windows(rows, p.h, p.windows))
            for (const test::Window& x : test::defined_windows(cols, p.w, p.windows)) cells.push_back({y, x});
    return cells;
}

/// A result in double, and the place that a maximum came from.
struct Pooled {
    double value;
    int64_t place;
};

template <class T>
Pooled pooled(const Buffer<T>& x, int64_t base, const Strides& stride, const Problem& p, const Cell& cell, bool max) {
    Pooled r{max ? -INFINITY : 0.0, cell.y.start * p.w + cell.x.start};
    for (int64_t i = cell.y.start; i < cell.y.end; ++i)
        for (int64_t j = cell.x.start; j < cell.x.end; ++j) {
            const double v = static_cast<double>(x[base + i * stride.h + j * stride.w]);
            if (!max) r.value += v / static_cast<double>(cell.y.length * cell.x.length);
            if (max && (v > r.value || std::isnan(v))) r = {v, i * p.w + j};
        }
    return r;
}

PyramidPoolBins pyramid_of(const Problem& p, bool max) {
    PyramidPoolBins pyramid{static_cast<int>(p.bins.size()), {}, p.windows, max};
    for (size_t i = 0; i < p.bins.size(); ++i) std::copy(p.bins[i].begin(), p.bins[i].end(), pyramid.bins[i]);
    return pyramid;
}

/// Forward and backward of one problem on heap buffers of exact size, `offset` elements off the alignment of malloc.
template <class T>
void check_pool(const Problem& p, bool max, Layout layout, size_t offset, uint64_t seed) {
    hostsim::set_seed(seed);
    test::Random random(seed);
    const std::vector<Cell> cells = cells_of(p);
    const int64_t count = static_cast<int64_t>(cells.size());
    const Strides stride = strides_of(p, layout);
    const bool inner = layout == Layout::nhwc;
    const int64_t yn = p.c * count, yc = inner ? 1 : count, ys = inner ? p.c : 1;
    Buffer<T> x(stride.size, offset), y(p.n * yn, offset), dy(p.n * yn, offset), dx(stride.size, offset);
    Buffer<int> indices(max ? p.n * yn : 0);
    max ? x.fill_integers(random) : x.fill(random);
    dy.fill_integers(random);
    if (max)
        for (size_t i = 0; i < x.size(); i += 37) x[i] = static_cast<T>(i % 2 ? NAN : -INFINITY);

    PyramidPoolFwdParams fwd{x.data(),
                             y.data(),
                             max ? indices.data() : nullptr,
                             nullptr,
                             nullptr,
                             p.n,
                             p.c,
                             p.h,
                             p.w,
                             stride.n,
                             stride.c,
                             stride.h,
                             stride.w,
                             yn,
                             yc,
                             ys,
                             pyramid_of(p, max),
                             test::dtype_of<T>(),
                             p.processors};
    int64_t parts = 0;
    CHECK_OK(pyramid_pool_parts(fwd, parts));
    Buffer<std::conditional_t<std::is_same_v<T, double>, double, float>> values(parts);
    Buffer<int> places(max ? parts : 0);
    if (parts) fwd.parts = values.data();
    if (parts && max) fwd.part_indices = places.data();
    CHECK_OK(launch_pyramid_pool_fwd(fwd, {}));
    const PyramidPoolBwdParams bwd{dy.data(), fwd.indices, dx.data(),   p.n,       p.c,         p.h,
                                   p.w,       stride.n,    stride.c,    stride.h,  stride.w,    yn,
                                   yc,        ys,          fwd.pyramid, fwd.dtype, p.processors};
    CHECK_OK(launch_pyramid_pool_bwd(bwd, {}));

    std::vector<double> want_y(y.size()), want_dx(stride.size, NAN);  // NaN between the rows of slices
    std::vector<int64_t> want_indices(indices.size());
    for (int64_t plane = 0; plane < p.n * p.c; ++plane) {
        const int64_t base = plane / p.c * stride.n + plane % p.c * stride.c;
        for (int64_t i = 0; i < p.h * p.w; ++i) want_dx[base + i / p.w * stride.h + i % p.w * stride.w] = 0;
        for (int64_t s = 0; s < count; ++s) {
            const int64_t out = plane / p.c * yn + plane % p.c * yc + s * ys;
            const Cell& cell = cells[s];
            const Pooled r = pooled(x, base, stride, p, cell, max);
            want_y[out] = r.value;
            if (max) {
                want_indices[out] = r.place;
                want_dx[base + r.place / p.w * stride.h + r.place % p.w * stride.w] += static_cast<double>(dy[out]);
                continue;
            }
            const double share = static_cast<double>(dy[out]) / static_cast<double>(cell.y.length * cell.x.length);
            for (int64_t i = cell.y.start; i < cell.y.end; ++i)
                for (int64_t j = cell.x.start; j < cell.x.end; ++j)
                    want_dx[base + i * stride.h + j * stride.w] += share;
        }
    }
    double largest = 1;
    for (double v : want_dx) largest = std::fmax(largest, std::abs(v));
    std::ostringstream what;
    what << p.name << " " << name_of(fwd.dtype) << " layout " << static_cast<int>(layout) << " offset " << offset
         << " seed " << seed;
    const double tolerance = test::epsilon<T>() + (std::is_same_v<T, double> ? 1e-13 : 1e-5);
    CHECK_CLOSE(what.str() + " y", y, want_y, tolerance);
    CHECK_CLOSE(what.str() + " indices", indices, want_indices, 0);
    CHECK_CLOSE(what.str() + " dx", dx, want_dx, tolerance * largest);
}

const std::vector<Problem> problems = {
    {"psp", 2, 5, 12, 18, {{1, 1}, {2, 2}, {3, 3}, {6, 6}}},
    {"overlapping", 1, 20, 17, 23, {{3, 2}, {6, 6}}},
    {"one pixel", 2, 9, 1, 1, {{1, 1}, {2, 2}}},
    {"more bins than pixels", 1, 4, 5, 2, {{7, 7}, {1, 1}}},
    {"many channels", 1, 130, 9, 7, {{1, 1}, {4, 4}}},
    {"many planes", 3, 40, 5, 6, {{2, 3}}, Windows::adaptive, 1},
    {"one plane, a second launch", 1, 1, 131, 67, {{1, 1}, {3, 3}}},
    {"one slab, a second launch", 1, 3, 33, 47, {{1, 1}, {2, 2}}},
    {"wide rows in pieces", 1, 2, 40, 300, {{1, 1}, {2, 3}}, Windows::adaptive, 1},
    {"a row wider than staged", 1, 1, 2, 2100, {{1, 1}, {1, 6}}},
    {"many rectangles", 1, 2, 70, 80, {{64, 64}, {61, 59}, {1, 1}}},
    {"fixed with a rest", 2, 6, 11, 10, {{2, 2}, {4, 4}}, Windows::fixed},
    {"fixed with a rest, many planes", 2, 40, 11, 10, {{2, 2}, {4, 4}}, Windows::fixed, 1},
    {"fixed, twice the bins", 1, 2, 127, 9, {{64, 5}}, Windows::fixed},
    {"ceil", 1, 5, 13, 14, {{4, 4}, {2, 2}}, Windows::ceil},
};

template <class T>
void check_all() {
    uint64_t seed = 0;
    for (const Problem& p : problems)
        for (bool max : {false, true})
            for (Layout layout : {Layout::nchw, Layout::nhwc, Layout::sliced})
                for (size_t offset : {0, 1}) check_pool<T>(p, max, layout, offset, ++seed);
}

/// One launch or two is decided by sizes and multiprocessors alone.
void check_parts() {
    const auto parts = [](int64_t n, int64_t c, int64_t h, int64_t w, bool inner, int bins, int processors) {
        PyramidPoolFwdParams p{};
        p.n = n, p.c = c, p.h = h, p.w = w;
        p.sc = inner ? 1 : h * w, p.sw = inner ? c : 1;
        p.pyramid = {1, {{bins, bins}}, Windows::adaptive, false};
        p.processors = processors;
        int64_t found = -1;
        CHECK_OK(pyramid_pool_parts(p, found));
        return found;
    };
    for (bool inner : {false, true}) {
        CHECK(parts(8, 2048, 60, 60, inner, 6, 132) == 0, "enough blocks");
        CHECK(parts(1, 4, 8, 8, inner, 6, 132) == 0, "too little work for a second launch");
        CHECK(parts(1, 4, 512, 512, inner, 6, 132) > 0, "four blocks would read it all");
        CHECK(parts(8, 2048, 200, 200, inner, 64, 132) >= int64_t{8} * 2048 * 64 * 64, "too many rectangles");
        CHECK(parts(0, 4, 512, 512, inner, 6, 132) == 0, "an empty batch");
    }
    CHECK(parts(1, 512, 128, 128, true, 1, 8) == 0 && parts(1, 512, 128, 128, true, 1, 9) > 0, "eight slabs");
}

int main() {
    check_parts();
    check_all<float>();
    check_all<half>();
    if (!hostsim::racing) check_all<bf16>();  // which shares memory as half does
    check_all<double>();
    return test::finish();
}
