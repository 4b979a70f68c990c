// upsample_cross_entropy and upsample_argmax against loops in double: loss, normaliser, gradient by scattering, labels;
// every dtype and layout, misaligned logits, several schedules, buffers of exact size, labels out of range.
#include "upsample_cross_entropy/upsample_cross_entropy.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "tests/check.h"
#include "upsample_argmax/upsample_argmax.h"

using namespace pk;
using test::Buffer;
using test::Random;

namespace {

struct Case {
    const char* name;
    int n, c, h, w, rows, cols;
    bool corners, weighted;
    double smoothing;
};

const Case cases[] = {
    {"twice", 2, 5, 3, 4, 6, 8, false, true, 0},           {"eighth", 1, 19, 3, 4, 24, 32, false, false, 0.1},
    {"primes", 1, 9, 5, 7, 13, 17, true, true, 0.25},      {"smaller", 1, 3, 9, 13, 4, 5, false, false, 0},
    {"equal", 2, 8, 3, 5, 3, 5, false, true, 0},           {"far", 1, 2, 1, 1, 5, 200, true, false, 0},
    {"far-columns", 1, 8, 2, 2, 3, 300, true, false, 0.5}, {"one-class", 1, 1, 2, 3, 3, 4, false, false, 0},
};

struct Tap {
    int i;
    double weight;
};

/// Both source pixels of output d along one axis.
std::array<Tap, 2> taps(bool corners, int size, int full, bool taken, int d) {
    if (taken) return {{{d, 1}, {d, 0}}};
    const double position =
        corners ? (full > 1 ? double(d) * (size - 1) / (full - 1) : 0) : std::max(0.0, (d + 0.5) * size / full - 0.5);
    const int low = std::min(static_cast<int>(position), size - 1), high = std::min(low + 1, size - 1);
    return {{{low, 1 - (position - low)}, {high, position - low}}};
}

template <class T>
struct Problem {
    using A = std::conditional_t<std::is_same_v<T, double>, double, float>;
    const Case& c;
    std::array<int64_t, 4> strides;
    Buffer<T> logits, dlogits;
    Buffer<int16_t> target;
    Buffer<A> weight;
    static constexpr int ignored = -7;

    Problem(const Case& c, bool channels_last, bool misaligned, uint64_t seed)
        : c(c),
          strides(channels_last ? std::array<int64_t, 4>{int64_t{c.c} * c.h * c.w, 1, int64_t{c.c} * c.w, c.c}
                                : std::array<int64_t, 4>{int64_t{c.c} * c.h * c.w, c.h * c.w, c.w, 1}),
          logits(size_t(c.n) * c.c * c.h * c.w, misaligned),
          dlogits(logits.size(), misaligned),
          target(size_t(c.n) * c.rows * c.cols),
          weight(c.c) {
        Random random(seed);
        logits.fill(random, -4, 4);
        weight.fill(random, 0.5, 2);
        for (size_t i = 0; i < target.size(); ++i)
            target[i] = static_cast<int16_t>(random.integer(0, 3) ? random.integer(0, c.c - 1) : ignored);
    }
    UpsampledProblem upsampled() const {
        return {test::dtype_of<T>(),
                logits.data(),
                c.n,
                c.c,
                c.h,
                c.w,
                {strides[0], strides[1], strides[2], strides[3]},
                c.rows,
                c.cols,
                c.corners};
    }
    UpsampleCrossEntropyProblem native() const {
        return {upsampled(), target.data(), LabelType::i16, ignored, c.weighted ? weight.data() : nullptr, c.smoothing};
    }
    size_t pixels() const { return target.size(); }
    double share(int k) const { return c.weighted ? double(weight[k]) : 1; }
    double whole() const {
        double sum = 0;
        for (int k = 0; k < c.c; ++k) sum += share(k);
        return sum;
    }
    /// Call use(offset of class 0 in logits, weight) for the four source pixels of an output pixel.
    template <class Use>
    void each_source(size_t pixel, Use use) const {
        const bool taken = c.h == c.rows && c.w == c.cols;
        const int y = static_cast<int>(pixel / c.cols) % c.rows, x = static_cast<int>(pixel % c.cols);
        const int64_t n = static_cast<int64_t>(pixel / (size_t(c.rows) * c.cols));
        for (const Tap& down : taps(c.corners, c.h, c.rows, taken, y))
            for (const Tap& right : taps(c.corners, c.w, c.cols, taken, x))
                use(n * strides[0] + down.i * strides[2] + right.i * strides[3], down.weight * right.weight);
    }
    std::vector<double> values(size_t pixel) const {
        std::vector<double> v(c.c, 0.0);
        each_source(pixel, [&](int64_t at, double share) {
            for (int k = 0; k < c.c; ++k) v[k] += share * static_cast<double>(logits[at + k * strides[1]]);
        });
        return v;
    }
};

double lse_of(const std::vector<double>& v) {
    double sum = 0;
    for (double x : v) sum += std::exp(x);
    return std::log(sum);
}

template <class T>
double tolerance(double scale = 1) {
    return scale * (std::is_same_v<T, double> ? 1e-11 : 2e-5);
}

/// y, lse and the gradient for the incoming `dy` per pixel, in double.
template <class T>
struct Truth {
    std::vector<double> y, lse, dlogits;
    double sum = 0, share = 0;

    template <class Incoming>
    Truth(const Problem<T>& p, Incoming incoming) : dlogits(p.logits.size(), 0.0) {
        for (size_t i = 0; i < p.pixels(); ++i) {
            const std::vector<double> v = p.values(i);
            const int t = p.target[i];
            lse.push_back(lse_of(v));
            if (t == p.ignored) {
                y.push_back(0);
                continue;
            }
            const double s = p.c.smoothing, hit = (1 - s) * p.share(t);
            double loss = hit * (lse[i] - v[t]);
            for (int k = 0; k < p.c.c; ++k) loss += s / p.c.c * p.share(k) * (lse[i] - v[k]);
            y.push_back(loss), sum += loss, share += p.share(t);
            for (int k = 0; k < p.c.c; ++k) {
                const double g = (hit + s / p.c.c * p.whole()) * std::exp(v[k] - lse[i]) - (k == t ? hit : 0) -
                                 s / p.c.c * p.share(k);
                p.each_source(
                    i, [&](int64_t at, double weight) { dlogits[at + k * p.strides[1]] += weight * g * incoming(i); });
            }
        }
    }
};

template <class T>
void check_loss(Problem<T>& p, const std::string& what) {
    using A = typename Problem<T>::A;
    Buffer<A> y(p.pixels()), lse(p.pixels()), dy(p.pixels());
    Random random(p.pixels());
    dy.fill(random);
    const Truth<T> truth(p, [&](size_t i) { return double(dy[i]); });
    CHECK_OK(launch_upsample_cross_entropy_fwd({p.native(), y.data(), lse.data(), nullptr}, {}));
    CHECK_CLOSE(what + " loss", y, truth.y, tolerance<T>());
    CHECK_CLOSE(what + " lse", lse, truth.lse, tolerance<T>());
    UpsampleCrossEntropyBwdParams params{p.native(), dy.data(), nullptr, lse.data(), p.dlogits.data(), {}};
    std::copy(p.strides.begin(), p.strides.end(), params.strides);
    CHECK_OK(launch_upsample_cross_entropy_bwd_dlogits(params, {}));
    const double terms = 4 + 2 * double(p.c.rows) * p.c.cols / (p.c.h * p.c.w);
    CHECK_CLOSE(what + " gradient", p.dlogits, truth.dlogits, tolerance<T>(terms) + 4 * test::epsilon<T>() * terms);
}

template <class T>
void check_mean(Problem<T>& p, const std::string& what) {
    using A = typename Problem<T>::A;
    const int parts = upsample_cross_entropy_parts(p.upsampled());
    Buffer<A> lse(p.pixels()), part(2 * size_t(parts)), y(1), factor(1), dy(1);
    dy[0] = 3;
    CHECK_OK(launch_upsample_cross_entropy_fwd({p.native(), nullptr, lse.data(), part.data()}, {}));
    CHECK_OK(launch_upsample_cross_entropy_sums(
        {test::dtype_of<T>(), parts, true, part.data(), y.data(), factor.data()}, {}));
    const Truth<T> truth(p, [](size_t) { return 3.0; });
    CHECK_CLOSE(what + " mean", y, std::vector<double>{truth.sum / truth.share}, tolerance<T>());
    CHECK_CLOSE(what + " factor", factor, std::vector<double>{1 / truth.share}, tolerance<T>());
    UpsampleCrossEntropyBwdParams params{p.native(), dy.data(), factor.data(), lse.data(), p.dlogits.data(), {}};
    std::copy(p.strides.begin(), p.strides.end(), params.strides);
    p.dlogits.poison();
    CHECK_OK(launch_upsample_cross_entropy_bwd_dlogits(params, {}));
    std::vector<double> want = truth.dlogits;
    for (double& g : want) g /= truth.share;
    CHECK_CLOSE(what + " mean's gradient", p.dlogits, want, tolerance<T>(4) + 4 * test::epsilon<T>());
}

template <class T>
void check_labels(Problem<T>& p, const std::string& what) {
    Random random(p.pixels());
    p.logits.fill_integers(random);  // ties, and sums that are exact where ratios are powers of two
    Buffer<int32_t> labels(p.pixels());
    CHECK_OK(launch_upsample_argmax_fwd({p.upsampled(), LabelType::i32, labels.data()}, {}));
    for (size_t i = 0; i < p.pixels(); ++i) {
        const std::vector<double> v = p.values(i);
        const int first = static_cast<int>(std::max_element(v.begin(), v.end()) - v.begin());
        const bool known = 0 <= labels[i] && labels[i] < p.c.c;
        CHECK(known && v[first] - v[labels[i]] <= 1e-5, what, " label of pixel ", i, " is ", labels[i], ", not ",
              first);
    }
}

template <class T>
void check(const Case& c, uint64_t seed) {
    for (const bool channels_last : {false, true})
        for (const bool misaligned : {false, true}) {
            hostsim::set_seed(++seed);
            Problem<T> p(c, channels_last, misaligned, seed);
            const std::string what = std::string(c.name) + ' ' + name_of(test::dtype_of<T>()) +
                                     (channels_last ? " channels_last" : " NCHW") + (misaligned ? " misaligned" : "");
            check_loss(p, what);
            check_mean(p, what);
            check_labels(p, what);
        }
}

/// What launchers and kernels refuse.
void check_arguments() {
    Problem<float> p(cases[0], false, false, 1);
    Buffer<float> lse(p.pixels()), y(p.pixels());
    UpsampleCrossEntropyFwdParams params{p.native(), y.data(), lse.data(), nullptr};
    params.problem.type = static_cast<LabelType>(4);
    CHECK(!launch_upsample_cross_entropy_fwd(params, {}).ok());
    params = {p.native(), y.data(), lse.data(), nullptr};
    params.problem.smoothing = 1.5;
    CHECK(!launch_upsample_cross_entropy_fwd(params, {}).ok());
    p.target[5] = 5;
    params = {p.native(), y.data(), lse.data(), nullptr};
    const Status status = launch_upsample_cross_entropy_fwd(params, {});
    CHECK(status.error.find("upsample_cross_entropy: every label") != std::string::npos, status.error);
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
