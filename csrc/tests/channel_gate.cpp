// channel_gate against loops in double: forward and every gradient, in every dtype and layout, of misaligned and
// strided maps, with several numbers of shares and schedules, in buffers of exact size.
#include "channel_gate/channel_gate.h"

#include <memory>

#include "tests/check.h"
#include "tests/resampled.h"

using namespace pk;
using test::Buffer;
using test::Layout;
using test::Random;
using test::Size;
using test::Tensor;

namespace {

struct Case {
    const char* name;
    int n;
    Size size;
    int hidden;  // 0: one product
    bool affine, biased, relu, residual;
    int parts;
};

const Case cases[] = {
    {"arm", 2, {24, 6, 9}, 0, false, true, false, false, 1},
    {"arm-norm", 1, {5, 33, 47}, 0, true, false, false, false, 3},
    {"ffm", 2, {40, 9, 8}, 10, false, true, true, true, 2},
    {"se", 3, {70, 3, 5}, 37, true, true, true, false, 1},
    {"more-shares-than-pixels", 1, {8, 1, 3}, 3, true, false, false, true, 5},
    {"one-channel", 2, {1, 17, 19}, 2, false, true, true, false, 2},
};

template <class T>
struct Layers {
    int c, k;
    Buffer<T> weight1, weight2, bias2;
    Buffer<float> bias1, scale1, shift1;

    Layers(const Case& given, Random& random, bool misaligned)
        : c(given.size.c),
          k(given.hidden ? given.hidden : c),
          weight1(k * c, misaligned),
          weight2(c * k),
          bias2(c),
          bias1(k),
          scale1(k),
          shift1(k) {
        weight1.fill(random), weight2.fill(random), bias2.fill(random);
        // Half of the hidden values are far below zero, half far above.
        for (int j = 0; j < k; ++j) bias1[j] = j % 2 ? 4 : -4, scale1[j] = 0.5f + j % 3, shift1[j] = bias1[j] / 4;
    }
    void give(const Case& given, ChannelGateProblem& p) {
        const bool is_float = std::is_same_v<T, float>;
        p.weight1 = {weight1.data(), c, 1};
        if (given.hidden) p.weight2 = {weight2.data(), k, 1};
        if (given.biased) p.bias1 = {bias1.data(), is_float};
        if (given.biased && given.hidden) p.bias2 = {bias2.data(), true};
        if (given.affine) p.scale1 = {scale1.data(), is_float}, p.shift1 = {shift1.data(), is_float};
    }
};

/// Everything that both directions give, in double.
struct Truth {
    std::vector<double> y, dx, dweight1, dweight2, dvectors;
};

template <class T>
Truth truth_of(const Case& given, const Layers<T>& l, const std::vector<double>& x, const std::vector<double>& dy) {
    const int c = l.c, k = l.k, pixels = given.size.h * given.size.w;
    const bool two = given.hidden > 0;
    Truth t{x, dy, std::vector<double>(k * c), std::vector<double>(two ? c * k : 0),
            std::vector<double>(3 * k + (two ? c : 0))};
    for (int n = 0; n < given.n; ++n) {
        const double *x_n = &x[1LL * n * c * pixels], *dy_n = &dy[1LL * n * c * pixels];
        std::vector<double> mean(c), products(k), hidden(k), gate(c), dz(c), dhidden(k), dmean(c);
        for (int i = 0; i < c; ++i)
            for (int p = 0; p < pixels; ++p) mean[i] += x_n[i * pixels + p] / pixels;
        for (int j = 0; j < k; ++j) {
            products[j] = given.biased ? l.bias1[j] : 0;
            for (int i = 0; i < c; ++i) products[j] += static_cast<double>(l.weight1[j * c + i]) * mean[i];
            hidden[j] = given.affine ? products[j] * l.scale1[j] + l.shift1[j] : products[j];
            if (given.relu) hidden[j] = std::max(hidden[j], 0.0);
        }
        for (int i = 0; i < c; ++i) {
            double z = two ? (given.biased ? static_cast<double>(l.bias2[i]) : 0) : hidden[i];
            for (int j = 0; two && j < k; ++j) z += static_cast<double>(l.weight2[i * k + j]) * hidden[j];
            gate[i] = 1 / (1 + std::exp(-z));
            for (int p = 0; p < pixels; ++p) dz[i] += x_n[i * pixels + p] * dy_n[i * pixels + p];
            dz[i] *= gate[i] * (1 - gate[i]);
            if (two) t.dvectors[3 * k + i] += dz[i];
        }
        for (int j = 0; j < k; ++j) {
            if (!two) dhidden[j] = dz[j];
            for (int i = 0; two && i < c; ++i) {
                dhidden[j] += static_cast<double>(l.weight2[i * k + j]) * dz[i];
                t.dweight2[i * k + j] += dz[i] * hidden[j];
            }
            if (given.relu && hidden[j] <= 0) dhidden[j] = 0;
            const double d = dhidden[j] * (given.affine ? l.scale1[j] : 1);
            t.dvectors[j] += d, t.dvectors[k + j] += dhidden[j] * products[j], t.dvectors[2 * k + j] += dhidden[j];
            for (int i = 0; i < c; ++i) {
                t.dweight1[j * c + i] += d * mean[i];
                dmean[i] += static_cast<double>(l.weight1[j * c + i]) * d;
            }
        }
        for (int e = 0; e < c * pixels; ++e) {
            const double factor = gate[e / pixels] + given.residual;
            t.y[1LL * n * c * pixels + e] = x_n[e] * factor;
            t.dx[1LL * n * c * pixels + e] = dy_n[e] * factor + dmean[e / pixels] / pixels;
        }
    }
    return t;
}

template <class T>
void check(const Case& given, bool channels_last, bool misaligned, uint64_t seed) {
    using A = std::conditional_t<std::is_same_v<T, double>, double, float>;
    hostsim::set_seed(seed);
    Random random(seed);
    const Layout dense = channels_last ? Layout::channels_last : Layout::nchw;
    Tensor<T> x(given.n, given.size, misaligned && !channels_last ? Layout::padded : dense, misaligned);
    Tensor<T> y(given.n, given.size, dense, misaligned), dy(given.n, given.size, dense, misaligned);
    Tensor<T> dx(given.n, given.size, dense, misaligned);
    x.values.fill(random), dy.values.fill(random);
    Layers<T> layers(given, random, misaligned);
    const int n = given.n, c = layers.c, k = layers.k;
    Buffer<A> part(n * given.parts * c), mean(n * c), hidden(n * k), gate(n * c), dz(n * c), dhidden(n * k);
    Buffer<A> dmean(n * c), dvectors(3 * k + (given.hidden ? c : 0));
    Buffer<T> dweight1(k * c), dweight2(given.hidden ? c * k : 0);

    ChannelGateProblem p{};
    p.dtype = test::dtype_of<T>(), p.channels_last = channels_last, p.relu = given.relu, p.residual = given.residual;
    p.n = n, p.c = c, p.h = given.size.h, p.w = given.size.w, p.k = k, p.parts = given.parts;
    p.x = x.values.data(), p.part = part.data();
    std::copy(x.strides.begin(), x.strides.end(), p.strides);
    layers.give(given, p);
    CHECK_OK(launch_channel_gate_fwd({p, mean.data(), hidden.data(), gate.data(), y.values.data()}, {}));
    part.poison();
    CHECK_OK(launch_channel_gate_bwd({p,
                                      mean.data(),
                                      hidden.data(),
                                      gate.data(),
                                      dy.values.data(),
                                      dz.data(),
                                      dhidden.data(),
                                      dmean.data(),
                                      dx.values.data(),
                                      {dweight1.data(), c, 1},
                                      {given.hidden ? dweight2.data() : nullptr, k, 1},
                                      dvectors.data()},
                                     {}));

    const Truth want = truth_of(given, layers, x.logical(), dy.logical());
    const std::string what = std::string(given.name) + ' ' + name_of(p.dtype) +
                             (channels_last ? " channels_last" : " NCHW") + (misaligned ? " misaligned" : "");
    const double computed = std::is_same_v<T, double> ? 1e-12 : 2e-5, pixels = given.size.h * given.size.w;
    const double rounded = 4 * test::epsilon<T>();
    CHECK_CLOSE(what + " y", y.logical(), want.y, computed + rounded);
    CHECK_CLOSE(what + " dx", dx.logical(), want.dx, computed * 10 + rounded);
    // Sums over the pixels grow with their number, and so do the gradients of what follows them.
    const double grown = computed * (1 + pixels / 10) + rounded * (1 + pixels / 4);
    CHECK_CLOSE(what + " dweight1", dweight1, want.dweight1, grown);
    CHECK_CLOSE(what + " dweight2", dweight2, want.dweight2, grown);
    CHECK_CLOSE(what + " dvectors", dvectors, want.dvectors, computed * (1 + pixels / 10));
}

/// What a launcher refuses, a batch of nothing, and a backward of which only one side is asked for.
void check_arguments() {
    ChannelGateProblem p{};
    p.n = 0, p.c = p.k = 2, p.h = p.w = p.parts = 1;
    float weight[4] = {}, dvectors[6], dweight[4];
    std::fill_n(dvectors, 6, NAN), std::fill_n(dweight, 4, NAN);
    p.weight1 = {weight, 2, 1};
    CHECK_OK(launch_channel_gate_fwd({p, nullptr, nullptr, nullptr, nullptr}, {}));
    ChannelGateBwdParams backward{};
    backward.problem = p, backward.dweight1 = {dweight, 2, 1};
    CHECK_OK(launch_channel_gate_bwd(backward, {}));
    CHECK(std::isnan(dweight[0]) && std::isnan(dvectors[0]));
    backward.dvectors = dvectors;
    CHECK_OK(launch_channel_gate_bwd(backward, {}));
    CHECK(dweight[3] == 0 && dvectors[5] == 0);
    p.k = 3;
    CHECK(launch_channel_gate_fwd({p, nullptr, nullptr, nullptr, nullptr}, {}).error ==
          "without a second weight k must be c, got 3 and 2");
    p.c = p.k = 5000;
    CHECK(launch_channel_gate_fwd({p, nullptr, nullptr, nullptr, nullptr}, {}).error ==
          "at most 8192 channels and hidden values together, got 5000 and 5000");
}

}  // namespace

int main() {
    uint64_t seed = 0;
    for (const Case& given : cases)
        for (const bool channels_last : {false, true})
            for (const bool misaligned : {false, true}) {
                check<float>(given, channels_last, misaligned, ++seed);
                check<half>(given, channels_last, misaligned, ++seed);
                check<bf16>(given, channels_last, misaligned, ++seed);
                check<double>(given, channels_last, misaligned, ++seed);
            }
    check_arguments();
    return test::finish();
}
