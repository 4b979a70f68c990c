// upsample_merge against loops in double: forward, gradients of the maps by scattering, sums for scale and shift; every
// dtype and layout, misaligned and strided maps, several schedules, buffers of exact size.
#include "upsample_merge/upsample_merge.h"

#include <memory>

#include "tests/check.h"
#include "tests/resampled.h"

using namespace pk;
using test::Buffer;
using test::each_source;
using test::Layout;
using test::Random;
using test::Size;
using test::Tensor;

namespace {

struct Case {
    const char* name;
    Resample how;
    bool sum, relu, affine;
    int n, h, w;
    std::vector<Size> maps;
};

const Case cases[] = {
    {"pyramid", Resample::half_pixel, false, false, false, 2, 12, 20, {{16, 12, 20}, {8, 1, 1}, {8, 2, 2}, {8, 6, 6}}},
    {"corners", Resample::align_corners, false, true, true, 1, 13, 17, {{24, 1, 1}, {3, 13, 17}, {40, 5, 7}}},
    {"nearest", Resample::nearest, false, true, false, 2, 7, 12, {{5, 3, 4}, {8, 14, 5}}},
    {"fusion", Resample::half_pixel, true, true, true, 1, 16, 24, {{18, 16, 24}, {18, 8, 12}, {18, 4, 6}, {18, 2, 3}}},
    {"far", Resample::half_pixel, true, false, true, 1, 41, 37, {{9, 1, 1}, {9, 3, 2}}},
    {"wide", Resample::align_corners, false, false, false, 2, 4, 40, {{9, 4, 1}, {5, 2, 3}}},
    {"smaller", Resample::half_pixel, false, false, true, 1, 3, 5, {{7, 9, 11}, {10, 33, 4}}},
    {"one-pixel", Resample::nearest, true, true, false, 3, 1, 1, {{8, 1, 1}, {8, 4, 4}}},
};

template <class T>
struct Problem {
    const Case& c;
    int channels = 0;
    std::vector<int> firsts;
    std::vector<std::unique_ptr<Tensor<T>>> maps, dmaps;
    std::unique_ptr<Tensor<T>> y, dy;
    Buffer<float> scale;
    Buffer<T> shift;
    UpsampleMergeProblem native;

    Problem(const Case& c, bool channels_last, bool misaligned, uint64_t seed)
        : c(c), scale(total(c)), shift(total(c), misaligned), native{} {
        Random random(seed);
        const Layout dense = channels_last ? Layout::channels_last : Layout::nchw;
        for (size_t i = 0; i < c.maps.size(); ++i) {
            const Layout layout = i % 3 == 2 ? Layout::padded : i % 3 == 1 && misaligned ? Layout::nchw : dense;
            firsts.push_back(c.sum ? 0 : channels);
            channels = c.sum ? c.maps[i].c : channels + c.maps[i].c;
            maps.push_back(std::make_unique<Tensor<T>>(c.n, c.maps[i], layout, misaligned));
            dmaps.push_back(std::make_unique<Tensor<T>>(c.n, c.maps[i], layout, misaligned));
            maps.back()->values.fill(random);
        }
        y = std::make_unique<Tensor<T>>(c.n, Size{channels, c.h, c.w}, dense, misaligned);
        dy = std::make_unique<Tensor<T>>(c.n, Size{channels, c.h, c.w}, dense, misaligned);
        dy->values.fill(random);
        scale.fill(random, 0.5, 2);
        shift.fill(random);
        native = {test::dtype_of<T>(), c.n, channels, c.h, c.w, channels_last, c.how, c.sum, 0, {}};
    }
    static int total(const Case& c) {
        int sum = 0;
        for (const Size& m : c.maps) sum = c.sum ? m.c : sum + m.c;
        return sum;
    }
    UpsampleMergeProblem with(std::vector<std::unique_ptr<Tensor<T>>>& tensors) const {
        UpsampleMergeProblem p = native;
        for (auto& t : tensors) {
            const auto& s = t->strides;
            p.maps[p.count] = {t->values.data(), t->size.c,       t->size.h,
                               t->size.w,        firsts[p.count], {s[0], s[1], s[2], s[3]}};
            ++p.count;
        }
        return p;
    }
    /// Call `use(map, pixel of it, channel of it, weight)` for everything behind output (i, channel, y, x).
    template <class Use>
    void each_behind(int channel, int y, int x, Use use) const {
        for (size_t m = 0; m < c.maps.size(); ++m) {
            const Size& s = c.maps[m];
            const int k = channel - firsts[m];
            if (k < 0 || k >= s.c) continue;
            if (s.h == c.h && s.w == c.w) {
                use(m, k, y, x, 1.0);
                continue;
            }
            each_source(c.how, s.h, c.h, y, [&](int sy, double down) {
                each_source(c.how, s.w, c.w, x, [&](int sx, double right) { use(m, k, sy, sx, down * right); });
            });
        }
    }
    template <class Use>
    void each_output(Use use) const {
        for (int i = 0; i < c.n; ++i)
            for (int k = 0; k < channels; ++k)
                for (int v = 0; v < c.h; ++v)
                    for (int x = 0; x < c.w; ++x) use(i, k, v, x);
    }
    double merged(int i, int channel, int v, int x) const {
        double value = 0;
        each_behind(channel, v, x, [&](size_t m, int k, int sy, int sx, double weight) {
            value += weight * static_cast<double>((*maps[m])(i, k, sy, sx));
        });
        return value;
    }
    /// What comes in behind the ReLU, whose mask is the kernel's own output.
    double incoming(int i, int k, int v, int x) const {
        return c.relu && static_cast<double>((*y)(i, k, v, x)) <= 0 ? 0 : static_cast<double>((*dy)(i, k, v, x));
    }
};

template <class T>
double tolerance(double terms) {
    const double computed = std::is_same_v<T, double> ? 1e-12 : 4e-6;  // of positions and sums
    return terms * (computed + test::epsilon<T>());
}

template <class T>
void check_forward(Problem<T>& p, const std::string& what) {
    const Case& c = p.c;
    CHECK_OK(launch_upsample_merge_fwd({p.with(p.maps), c.affine ? p.scale.data() : nullptr,
                                        c.affine ? p.shift.data() : nullptr, false, true, c.relu, p.y->values.data()},
                                       {}));
    std::vector<double> want;
    p.each_output([&](int i, int k, int v, int x) {
        double value = p.merged(i, k, v, x);
        if (c.affine) value = value * p.scale[k] + static_cast<double>(p.shift[k]);
        want.push_back(c.relu ? std::max(value, 0.0) : value);
    });
    CHECK_CLOSE(what + " forward", p.y->logical(), want, tolerance<T>(8));
}

template <class T>
void check_backward_maps(Problem<T>& p, const std::string& what) {
    const Case& c = p.c;
    CHECK_OK(
        launch_upsample_merge_bwd_dmaps({p.with(p.dmaps), p.dy->values.data(), c.relu ? p.y->values.data() : nullptr,
                                         c.affine ? p.scale.data() : nullptr, false},
                                        {}));
    std::vector<Tensor<double>*> want;
    std::vector<std::unique_ptr<Tensor<double>>> owned;
    for (const Size& s : c.maps) {
        owned.push_back(std::make_unique<Tensor<double>>(c.n, s, Layout::nchw, 0));
        std::fill_n(owned.back()->values.data(), owned.back()->values.size(), 0.0);
    }
    p.each_output([&](int i, int channel, int v, int x) {
        const double dy = p.incoming(i, channel, v, x) * (c.affine ? p.scale[channel] : 1);
        p.each_behind(channel, v, x, [&](size_t m, int k, int sy, int sx, double weight) {
            (*owned[m])(i, k, sy, sx) += weight * dy;
        });
    });
    for (size_t m = 0; m < owned.size(); ++m) {
        const double terms = 4 + double(c.h) * c.w / (c.maps[m].h * c.maps[m].w);
        CHECK_CLOSE(what + " d map " + std::to_string(m), p.dmaps[m]->logical(), owned[m]->logical(),
                    tolerance<T>(2 * terms));
    }
}

template <class T>
void check_backward_affine(Problem<T>& p, const std::string& what, bool recompute, int parts) {
    using A = std::conditional_t<std::is_same_v<T, double>, double, float>;
    const Case& c = p.c;
    const int rows = recompute ? 2 : 1;
    Buffer<A> part(size_t(rows) * parts * p.channels), sums(size_t(rows) * p.channels);
    CHECK_OK(launch_upsample_merge_bwd_affine({recompute ? p.with(p.maps) : p.native, p.dy->values.data(),
                                               c.relu ? p.y->values.data() : nullptr, parts, part.data()},
                                              {}));
    CHECK_OK(launch_upsample_merge_sums({test::dtype_of<T>(), rows, parts, p.channels, part.data(), sums.data()}, {}));
    std::vector<double> want(sums.size(), 0.0);
    p.each_output([&](int i, int k, int v, int x) {
        const double dy = p.incoming(i, k, v, x);
        want[k] += dy;
        if (recompute) want[p.channels + k] += dy * p.merged(i, k, v, x);
    });
    const double error = std::is_same_v<T, double> ? 1e-12 : 4e-6;
    CHECK_CLOSE(what + " sums", sums, want, error * c.n * c.h * c.w);
}

template <class T>
void check(const Case& c, uint64_t seed) {
    for (const bool channels_last : {false, true})
        for (const bool misaligned : {false, true}) {
            hostsim::set_seed(++seed);
            Problem<T> p(c, channels_last, misaligned, seed);
            const std::string what = std::string(c.name) + ' ' + name_of(test::dtype_of<T>()) +
                                     (channels_last ? " channels_last" : " NCHW") + (misaligned ? " misaligned" : "");
            check_forward(p, what);
            check_backward_maps(p, what);
            check_backward_affine(p, what, true, 3);
            check_backward_affine(p, what, false, 1);
        }
}

/// What a launcher refuses, and a batch of nothing.
void check_arguments() {
    Problem<float> p(cases[0], false, false, 1);
    UpsampleMergeFwdParams params{p.with(p.maps), nullptr, nullptr, true, true, false, p.y->values.data()};
    params.problem.maps[1].first = p.channels;
    CHECK(!launch_upsample_merge_fwd(params, {}).ok());
    params = {p.with(p.maps), nullptr, nullptr, true, true, false, p.y->values.data()};
    params.problem.how = Resample::taken;
    CHECK(!launch_upsample_merge_fwd(params, {}).ok());
    params.problem.how = Resample::nearest;
    params.problem.n = 0;
    CHECK_OK(launch_upsample_merge_fwd(params, {}));
    CHECK(std::isnan(p.y->values[0]));
}

}  // namespace

int main() {
    uint64_t seed = 0;
    for (const Case& c : cases) {
        check<float>(c, seed += 100);
        check<half>(c, seed += 100);
        check<bf16>(c, seed += 100);
        check<double>(c, seed += 100);
    }
    check_arguments();
    return test::finish();
}
