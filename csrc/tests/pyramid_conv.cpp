// pyramid_conv against loops in double: the merge of every level's taps with its epilogue, and their gradients by
// scattering; every dtype and layout, misaligned and strided levels, several schedules, buffers of exact size.
#include "pyramid_conv/pyramid_conv.h"

#include <algorithm>
#include <array>
#include <memory>

#include "hostsim/race.h"
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
    int k;
    bool base, bias, affine, relu, keep;
    int n, o, h, w;
    std::vector<std::array<int, 2>> levels;
    int inside = 0;  // channels of a map that the merge multiplies itself
};

const Case cases[] = {
    {"psp", Resample::align_corners, 3, true, false, true, true, true, 1, 20, 12, 20, {{1, 1}, {2, 2}, {3, 3}, {6, 6}}},
    {"scale-2", Resample::half_pixel, 3, true, true, false, false, false, 2, 16, 18, 36, {{9, 18}, {5, 9}}},
    {"nearest", Resample::nearest, 3, false, true, true, true, true, 1, 11, 9, 14, {{3, 7}, {4, 5}}},
    {"primes", Resample::half_pixel, 3, true, false, false, true, false, 1, 5, 13, 17, {{5, 7}, {12, 16}}},
    {"mixed", Resample::half_pixel, 1, true, true, true, true, true, 2, 40, 8, 40, {{4, 20}, {2, 10}, {1, 5}}},
    {"corners", Resample::align_corners, 1, true, false, false, false, false, 1, 9, 10, 5, {{3, 2}}},
    {"far", Resample::half_pixel, 3, false, false, false, false, false, 1, 3, 41, 150, {{1, 1}, {2, 3}}},
    {"narrower", Resample::half_pixel, 3, true, false, true, false, true, 1, 6, 3, 30, {{9, 4}, {7, 1}}},
    {"inside", Resample::half_pixel, 1, false, true, true, true, true, 2, 72, 13, 21, {{7, 11}, {4, 6}, {2, 3}}, 48},
    {"inside-odd", Resample::align_corners, 1, false, false, false, false, false, 1, 11, 9, 34, {{3, 7}}, 35},
    {"one-pixel", Resample::nearest, 3, true, true, false, true, false, 3, 8, 1, 1, {}},
};

template <class T>
struct Problem {
    const Case& c;
    std::vector<std::unique_ptr<Tensor<T>>> levels, dlevels;
    Tensor<T> base, y, z, dz, x;
    const int columns;  // of the weight that x's are the first of
    Buffer<T> weight;
    Buffer<float> bias, shift;
    Buffer<T> scale;
    PyramidConvProblem native;

    Problem(const Case& c, bool channels_last, bool misaligned, uint64_t seed)
        : c(c),
          base(c.n, {c.o, c.h, c.w}, dense(channels_last), misaligned),
          y(c.n, {c.o, c.h, c.w}, dense(channels_last), misaligned),
          z(c.n, {c.o, c.h, c.w}, dense(channels_last), misaligned),
          dz(c.n, {c.o, c.h, c.w}, dense(channels_last), misaligned),
          x(c.n, {std::max(1, c.inside), c.h, c.w}, misaligned ? Layout::padded : dense(channels_last), misaligned),
          columns(c.inside + 32),
          weight(size_t(c.o) * columns, misaligned),
          bias(c.o),
          shift(c.o, misaligned),
          scale(c.o, misaligned),
          native{test::dtype_of<T>(), c.n, c.o, c.h, c.w, channels_last, c.how, c.k, 0, {}} {
        Random random(seed);
        for (size_t i = 0; i < c.levels.size(); ++i) {
            const Size size{c.k * c.k * c.o, c.levels[i][0], c.levels[i][1]};
            const Layout layout = i % 3 == 2                 ? Layout::padded
                                  : i % 3 == 1 && misaligned ? Layout::nchw
                                                             : dense(channels_last);
            levels.push_back(std::make_unique<Tensor<T>>(c.n, size, layout, misaligned));
            dlevels.push_back(std::make_unique<Tensor<T>>(c.n, size, layout, misaligned));
            levels.back()->values.fill(random);
        }
        for (auto* tensor : {&base, &dz, &x}) tensor->values.fill(random);
        weight.fill(random);
        bias.fill(random), shift.fill(random), scale.fill(random, 0.5, 2);
    }
    static Layout dense(bool channels_last) { return channels_last ? Layout::channels_last : Layout::nchw; }

    PyramidConvProblem with(std::vector<std::unique_ptr<Tensor<T>>>& tensors) const {
        PyramidConvProblem p = native;
        for (auto& t : tensors) {
            const auto& s = t->strides;
            p.levels[p.count++] = {t->values.data(), t->size.h, t->size.w, {s[0], s[1], s[2], s[3]}};
        }
        return p;
    }
    PyramidConvOperand operand(bool tf32) {
        const auto& s = x.strides;
        return {
            c.inside ? x.values.data() : nullptr, {s[0], s[1], s[2], s[3]}, c.inside, weight.data(), columns, 1, tf32};
    }
    template <class Use>
    void each_output(Use use) const {
        for (int i = 0; i < c.n; ++i)
            for (int o = 0; o < c.o; ++o)
                for (int v = 0; v < c.h; ++v)
                    for (int x = 0; x < c.w; ++x) use(i, o, v, x);
    }
    /// Call `use(level, channel of it, row, column, weight)` for every cell behind output (o, v, x).
    template <class Use>
    void each_behind(int o, int v, int x, Use use) const {
        for (size_t l = 0; l < levels.size(); ++l)
            for (int t = 0; t < c.k * c.k; ++t) {
                const int row = v + t / c.k - c.k / 2, col = x + t % c.k - c.k / 2;
                if (row < 0 || row >= c.h || col < 0 || col >= c.w) continue;
                each_source(c.how, c.levels[l][0], c.h, row, [&](int sy, double down) {
                    each_source(c.how, c.levels[l][1], c.w, col,
                                [&](int sx, double right) { use(l, t * c.o + o, sy, sx, down * right); });
                });
            }
    }
};

template <class T>
double tolerance(double terms) {
    const double computed = std::is_same_v<T, double> ? 1e-12 : 6e-6;  // of positions and sums
    return terms * (computed + test::epsilon<T>());
}

/// `in_place`: y is where base is.
template <class T>
void check_merge(Problem<T>& p, const std::string& what, bool in_place, bool tf32 = false) {
    const Case& c = p.c;
    std::vector<double> want_y, want_z;
    p.each_output([&](int i, int o, int v, int x) {
        double value = c.base ? static_cast<double>(p.base(i, o, v, x)) : 0;
        p.each_behind(o, v, x, [&](size_t l, int channel, int sy, int sx, double weight) {
            value += weight * static_cast<double>((*p.levels[l])(i, channel, sy, sx));
        });
        for (int k = 0; k < c.inside; ++k)
            value += static_cast<double>(p.x(i, k, v, x)) * static_cast<double>(p.weight[size_t(o) * p.columns + k]);
        if (c.bias) value += p.bias[o];
        want_z.push_back(value);
        if (c.affine) value = value * static_cast<double>(p.scale[o]) + p.shift[o];
        want_y.push_back(c.relu ? std::max(value, 0.0) : value);
    });
    Tensor<T>& y = in_place ? p.base : p.y;
    CHECK_OK(launch_pyramid_conv_merge(
        {p.with(p.levels), p.operand(tf32), c.base ? p.base.values.data() : nullptr, c.bias ? p.bias.data() : nullptr,
         c.affine ? p.scale.data() : nullptr, c.affine ? p.shift.data() : nullptr, false, true, false, c.relu,
         y.values.data(), c.keep ? p.z.values.data() : nullptr},
        {}));
    const double terms = 4.0 * c.k * c.k * std::max<size_t>(1, c.levels.size());
    const double allowed = tolerance<T>(terms) + c.inside * (tf32 ? 0x1p-10 : 0x1p-22);
    CHECK_CLOSE(what + " y", y.logical(), want_y, allowed);
    if (c.keep) CHECK_CLOSE(what + " z", p.z.logical(), want_z, allowed);
}

template <class T>
void check_gradients(Problem<T>& p, const std::string& what) {
    const Case& c = p.c;
    CHECK_OK(launch_pyramid_conv_bwd_dlevels({p.with(p.dlevels), p.dz.values.data()}, {}));
    std::vector<std::unique_ptr<Tensor<double>>> want;
    for (auto& d : p.dlevels) {
        want.push_back(std::make_unique<Tensor<double>>(c.n, d->size, Layout::nchw, 0));
        std::fill_n(want.back()->values.data(), want.back()->values.size(), 0.0);
    }
    p.each_output([&](int i, int o, int v, int x) {
        const double dz = static_cast<double>(p.dz(i, o, v, x));
        p.each_behind(o, v, x, [&](size_t l, int channel, int sy, int sx, double weight) {
            (*want[l])(i, channel, sy, sx) += weight * dz;
        });
    });
    for (size_t l = 0; l < want.size(); ++l) {
        const double terms = 4 + double(c.h) * c.w / (c.levels[l][0] * c.levels[l][1]);
        CHECK_CLOSE(what + " d level " + std::to_string(l), p.dlevels[l]->logical(), want[l]->logical(),
                    tolerance<T>(2 * terms));
    }
}

template <class T>
void check(const Case& c, uint64_t seed) {
    for (const bool channels_last : {false, true})
        for (const bool misaligned : {false, true}) {
            if (misaligned && hostsim::racing) continue;  // the same ways through shared memory
            hostsim::set_seed(++seed);
            Problem<T> p(c, channels_last, misaligned, seed);
            const std::string what = std::string(c.name) + ' ' + name_of(test::dtype_of<T>()) +
                                     (channels_last ? " channels_last" : " NCHW") + (misaligned ? " misaligned" : "");
            check_merge(p, what, false);
            check_merge(p, what + " in place", c.base);
            if (c.inside && std::is_same_v<T, float>) check_merge(p, what + " in TF32", false, true);
            check_gradients(p, what);
        }
}

/// What a launcher refuses, and a batch of nothing.
void check_arguments() {
    Problem<float> p(cases[0], false, false, 1);
    PyramidConvMergeParams params{};
    params.problem = p.with(p.levels), params.y = p.y.values.data();
    params.problem.k = 5;
    CHECK(!launch_pyramid_conv_merge(params, {}).ok());
    params.problem.k = 3, params.problem.how = Resample::taken;
    CHECK(!launch_pyramid_conv_merge(params, {}).ok());
    params.problem.how = Resample::nearest, params.problem.n = 0;
    CHECK_OK(launch_pyramid_conv_merge(params, {}));
    CHECK_OK(launch_pyramid_conv_bwd_dlevels({params.problem, p.dz.values.data()}, {}));
    CHECK(std::isnan(p.y.values[0]) && std::isnan(p.dlevels[0]->values[0]));
}

}  // namespace

int main() {
    uint64_t seed = 0;
    for (const Case& c : cases) {
        check<float>(c, seed += 100);
        check<half>(c, seed += 100);
        if (!hostsim::racing) check<bf16>(c, seed += 100);  // which shares memory as half does
        check<double>(c, seed += 100);
    }
    check_arguments();
    return test::finish();
}
