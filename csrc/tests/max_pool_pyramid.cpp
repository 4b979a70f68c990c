// max_pool_pyramid against loops over square windows: layouts, dtypes, ties, NaN and infinity, tiles and their borders.
#include "max_pool_pyramid/max_pool_pyramid.h"

#include "hostsim/hostsim.h"
#include "tests/check.h"

using namespace pk;
using test::Buffer;

enum class Layout { nchw, nhwc, sliced };

struct Problem {
    const char* name;
    int64_t n, c, h, w;
    std::vector<int> sizes;
    bool cascade = false, descending = false;
    int processors = 4;
};

/// Offsets in a tensor of `channels` channels; sliced rows are longer than the map.
struct Strides {
    int64_t n, c, h, w, size;
    Strides(const Problem& p, int64_t channels, Layout layout) {
        const int64_t row = p.w + (layout == Layout::sliced ? 3 : 0);
        if (layout == Layout::nhwc) {
            n = p.h * p.w * channels, c = 1, h = p.w * channels, w = channels, size = p.n * n;
        } else {
            n = channels * p.h * row, c = p.h * row, h = row, w = 1, size = p.n * n;
        }
    }
    int64_t at(int64_t in, int64_t ic, int64_t y, int64_t x) const { return in * n + ic * c + y * h + x * w; }
};

MaxPoolPyramidProblem problem_of(const Problem& p, const Strides& s, Layout layout, Dtype dtype) {
    MaxPoolPyramidProblem q{};
    q.n = p.n, q.c = p.c, q.h = p.h, q.w = p.w;
    q.strides[0] = s.n, q.strides[1] = s.c, q.strides[2] = s.h, q.strides[3] = s.w;
    q.pools.levels = static_cast<int>(p.sizes.size());
    std::copy(p.sizes.begin(), p.sizes.end(), q.pools.size);
    q.pools.cascade = p.cascade, q.pools.descending = p.descending;
    q.channels_last = layout == Layout::nhwc, q.dtype = dtype, q.processors = p.processors;
    return q;
}

using Plane = std::vector<double>;

/// The place in its window of the first maximum of `from`, or of the last NaN, and its place in the plane.
struct Chosen {
    int place;
    int64_t at;
};

Chosen choose(const Problem& p, const Plane& from, int64_t y, int64_t x, int size) {
    Chosen best{-1, 0};
    for (int i = 0; i < size; ++i)
        for (int j = 0; j < size; ++j) {
            const int64_t row = y + i - size / 2, col = x + j - size / 2;
            if (row < 0 || row >= p.h || col < 0 || col >= p.w) continue;
            const double v = from[row * p.w + col];
            if (best.place < 0 || v > from[best.at] || std::isnan(v)) best = {i * size + j, row * p.w + col};
        }
    return best;
}

/// One channel of one image: every level's values and places, and the gradient of x.
struct Expected {
    std::vector<Plane> levels;
    std::vector<std::vector<Chosen>> chosen;
    Plane dx;
};

Expected expected_of(const Problem& p, const Plane& x, const std::vector<Plane>& dy) {
    Expected e{{x}, {}, {}};
    for (const int size : p.sizes) {
        const Plane from = p.cascade ? e.levels.back() : x;
        Plane level(from.size());
        e.chosen.emplace_back();
        for (int64_t i = 0; i < p.h * p.w; ++i) {
            e.chosen.back().push_back(choose(p, from, i / p.w, i % p.w, size));
            level[i] = from[e.chosen.back().back().at];
        }
        e.levels.push_back(level);
    }
    std::vector<Plane> gradient = dy;
    for (size_t level = p.sizes.size(); level >= 1; --level)
        for (int64_t i = 0; i < p.h * p.w; ++i)
            gradient[p.cascade ? level - 1 : 0][e.chosen[level - 1][i].at] += gradient[level][i];
    e.dx = gradient[0];
    return e;
}

/// Forward, with places and without, and backward of one problem, `offset` elements off the alignment of malloc.
template <class T>
void check_pyramid(const Problem& p, Layout layout, size_t offset, uint64_t seed) {
    hostsim::set_seed(seed);
    test::Random random(seed);
    const Layout dense = layout == Layout::nhwc ? layout : Layout::nchw;
    const int64_t levels = static_cast<int64_t>(p.sizes.size()), maps = 1 + levels;
    const Strides xs(p, p.c, layout), dys(p, maps * p.c, layout);
    const Strides ys(p, maps * p.c, dense), is(p, levels * p.c, dense), dxs(p, p.c, dense);
    Buffer<T> x(xs.size, offset), y(ys.size, offset), dy(dys.size, offset), dx(dxs.size, offset), bare(ys.size, offset);
    Buffer<uint8_t> indices(is.size, offset);
    x.fill_integers(random), dy.fill_integers(random);
    for (size_t i = 0; i < x.size(); i += 41)
        x[i] = static_cast<T>(i % 3 == 0 ? NAN : i % 3 == 1 ? -INFINITY : INFINITY);

    const Dtype dtype = test::dtype_of<T>();
    CHECK_OK(launch_max_pool_pyramid_fwd({problem_of(p, xs, layout, dtype), x.data(), y.data(), indices.data()}, {}));
    CHECK_OK(launch_max_pool_pyramid_fwd({problem_of(p, xs, layout, dtype), x.data(), bare.data(), nullptr}, {}));
    CHECK_OK(
        launch_max_pool_pyramid_bwd({problem_of(p, dys, layout, dtype), dy.data(), indices.data(), dx.data()}, {}));

    std::vector<double> want_y(y.size()), want_dx(dx.size());
    std::vector<int> want_indices(indices.size());
    const auto map_of = [&](int64_t level) { return p.descending ? levels - level : level; };
    for (int64_t n = 0; n < p.n; ++n)
        for (int64_t c = 0; c < p.c; ++c) {
            const auto each = [&](auto body) {
                for (int64_t i = 0; i < p.h * p.w; ++i) body(i, i / p.w, i % p.w);
            };
            Plane plane(p.h * p.w);
            std::vector<Plane> gradients(maps, plane);
            each([&](int64_t i, int64_t r, int64_t q) {
                plane[i] = static_cast<double>(x[xs.at(n, c, r, q)]);
                for (int64_t l = 0; l < maps; ++l)
                    gradients[l][i] = static_cast<double>(dy[dys.at(n, map_of(l) * p.c + c, r, q)]);
            });
            const Expected e = expected_of(p, plane, gradients);
            each([&](int64_t i, int64_t r, int64_t q) {
                for (int64_t l = 0; l < maps; ++l) want_y[ys.at(n, map_of(l) * p.c + c, r, q)] = e.levels[l][i];
                for (int64_t l = 0; l < levels; ++l) want_indices[is.at(n, l * p.c + c, r, q)] = e.chosen[l][i].place;
                want_dx[dxs.at(n, c, r, q)] = static_cast<double>(static_cast<T>(e.dx[i]));
            });
        }
    std::ostringstream what;
    what << p.name << " " << name_of(dtype) << " layout " << static_cast<int>(layout) << " offset " << offset;
    CHECK_CLOSE(what.str() + " y", y, want_y, 0);
    CHECK_CLOSE(what.str() + " y without places", bare, want_y, 0);
    CHECK_CLOSE(what.str() + " places", indices, want_indices, 0);
    CHECK_CLOSE(what.str() + " dx", dx, want_dx, 0);
}

const std::vector<Problem> problems = {
    {"SPP", 2, 5, 12, 9, {5, 9, 13}},
    {"SPPF", 1, 5, 11, 14, {5, 5, 5}, true},
    {"YOLOv4", 1, 9, 7, 6, {5, 9, 13}, false, true},
    {"one pixel", 2, 9, 1, 1, {1, 3}},
    {"wider than the map", 1, 4, 5, 2, {3, 15}},
    {"one column", 1, 3, 90, 1, {7, 7, 7}, true},
    {"tiles", 1, 2, 67, 70, {3, 7}},
    {"tiles of a cascade", 1, 3, 70, 67, {5, 5, 5}, true, true},
    {"many channels", 1, 75, 5, 6, {3}, false, false, 1},
};

template <class T>
void check_all() {
    uint64_t seed = 0;
    for (const Problem& p : problems)
        for (Layout layout : {Layout::nchw, Layout::nhwc, Layout::sliced})
            for (size_t offset : {0, 1}) check_pyramid<T>(p, layout, offset, ++seed);
}

void check_refusals() {
    const Problem good{"", 1, 1, 4, 4, {3, 5}};
    const auto refused = [&](Problem p) {
        const Strides s(p, p.c, Layout::nchw);
        return !launch_max_pool_pyramid_fwd({problem_of(p, s, Layout::nchw, Dtype::f32), nullptr, nullptr, nullptr}, {})
                    .ok();
    };
    for (const std::vector<int>& sizes : {std::vector{5, 3}, {4}, {3, 17}, {}}) {
        Problem p = good;
        p.sizes = sizes;
        CHECK(refused(p), "sizes");
    }
    Problem wide = good;
    wide.sizes = {15, 15}, wide.cascade = true;
    CHECK(refused(wide), "a cascade that reaches 14 pixels");
    Problem none = good;
    none.n = 0;
    CHECK(!refused(none), "an empty batch");
}

int main() {
    check_refusals();
    check_all<float>();
    check_all<half>();
    check_all<bf16>();
    check_all<double>();
    return test::finish();
}
