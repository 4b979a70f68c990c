// pyramid_project's kernels against plain loops in double, on small integers: every sum is exact, so results must be
// equal. Buffers end where their tensors end, elements between are NaN and must stay so.
#include "pyramid_project/pyramid_project.h"

#include <algorithm>
#include <vector>

#include "cells.h"
#include "check.h"

namespace {

using pk::Dtype;
using pk::test::Random;
using pk::test::Tensor;

struct Case {
    int n, c;
    std::vector<int> cells, channels;
};

const Case cases[] = {
    {2, 24, {1, 4, 9}, {6, 8, 40}},  // several levels, mixed alignment
    {3, 333, {1, 15}, {13, 33}},     // depth that wraps the ring, primes
    {5, 64, {16, 2}, {70, 32}},      // several row and channel tiles
    {1, 8, {1, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 3, 4, 5, 6, 7, 8}},
    {9, 40, {9}, {264}},  // depth of backward wraps the ring
    {0, 16, {1, 4}, {8, 8}},
};

/// Choices that results must not depend on, and the thread schedule.
struct Variant {
    int x, y, dy, weight;  // layouts
    int offset;            // elements before a tensor's first
    unsigned seed;
};

/// What one level's channels are multiplied by and shifted by; exact for mean, gain and bias in small integers.
struct Epilogue {
    bool norm, gain, bias, relu;
};
constexpr double eps = 1;  // with a variance of 3: deviations of two

template <class T>
struct Problem {
    const Case& given;
    Variant how;
    Epilogue epilogue;
    Dtype dtype;
    bool tf32;
    int full, channels, cells;
    std::vector<Tensor<T>> weights;                   // (1, C, O): as cells, so that they take every layout
    std::vector<std::vector<float>> gain, mean, var;  // float32 vectors
    std::vector<std::vector<T>> bias;                 // in the call's dtype
    Random random;

    Problem(const Case& given_, Variant how_, Epilogue epilogue_, Dtype dtype_, bool tf32_)
        : given(given_), how(how_), epilogue(epilogue_), dtype(dtype_), tf32(tf32_), random(how_.seed) {
        full = channels = cells = 0;
        for (size_t l = 0; l < given.cells.size(); ++l) {
            full = std::max(full, given.cells[l]), cells += given.cells[l], channels += given.channels[l];
            weights.emplace_back(1, given.c, given.channels[l], how.weight, how.offset).randomise(random);
            gain.emplace_back(), mean.emplace_back(), var.emplace_back(), bias.emplace_back();
            for (int o = 0; o < given.channels[l]; ++o) {
                gain[l].push_back(o % 2 ? 2 : -1), mean[l].push_back(o % 3), var[l].push_back(3);
                bias[l].push_back(pk::narrow<T>(o % 5 - 2));
            }
        }
    }

    pk::ProjectPyramid pyramid(std::vector<Tensor<T>>& matrices) {
        pk::ProjectPyramid p{};
        p.dtype = dtype, p.tf32 = tf32, p.n = given.n, p.c = given.c, p.full = full;
        p.levels = static_cast<int>(given.cells.size());
        for (int l = 0, cell = 0, channel = 0; l < p.levels; ++l) {
            pk::ProjectLevel& level = p.level[l];
            level = {given.cells[l], given.channels[l],    cell, channel, 0, matrices[l].data(), matrices[l].ss,
                     matrices[l].sc, {{}, {}, {}, {}, eps}};
            if (epilogue.gain) level.norm.gain = {gain[l].data(), dtype == Dtype::f32};
            if (epilogue.bias) level.norm.bias = {bias[l].data(), true};
            if (epilogue.norm) level.norm.mean = {mean[l].data(), false}, level.norm.var = {var[l].data(), false};
            cell += given.cells[l], channel += given.channels[l];
        }
        return p;
    }

    /// Calls body(level, channel of the level, first cell) for channel j of the result.
    template <class Body>
    double of_channel(int j, Body body) {
        int l = 0, cell = 0;
        while (j >= given.channels[l]) j -= given.channels[l], cell += given.cells[l++];
        return body(l, j, cell);
    }
    double slope(int l, int o) { return (epilogue.norm ? 0.5 : 1) * (epilogue.gain ? gain[l][o] : 1); }
    double centre(int l, int o) { return epilogue.norm ? mean[l][o] : 0; }

    Tensor<T> cells_of(int c, int s, int layout) { return {given.n, c, s, layout, how.offset}; }

    void forward() {
        Tensor<T> x = cells_of(given.c, cells, how.x).randomise(random);
        Tensor<T> y = cells_of(channels, full, how.y), z = cells_of(channels, full, how.y);
        const pk::PyramidProjectFwdParams params{pyramid(weights), x.data(), x.sn, x.sc, x.ss,         y.data(),
                                                 z.data(),         y.sn,     y.sc, y.ss, epilogue.relu};
        CHECK_OK(pk::launch_pyramid_project_fwd(params, {}));
        const auto product = [&](int i, int j, int k) {
            return of_channel(j, [&](int l, int o, int first) {
                double sum = 0;
                if (k < given.cells[l])
                    for (int c = 0; c < given.c; ++c) sum += x(i, c, first + k) * weights[l](0, c, o);
                return sum;
            });
        };
        z.check("z", product);
        y.check("y", [&](int i, int j, int k) {
            return of_channel(j, [&](int l, int o, int) {
                if (k >= given.cells[l]) return 0.0;
                const double bias_o = epilogue.bias ? pk::widen(bias[l][o]) : 0;
                const double v = (product(i, j, k) - centre(l, o)) * slope(l, o) + bias_o;
                return epilogue.relu && v < 0 ? 0 : v;
            });
        });
    }

    void backward_dz() {
        Tensor<T> dy = cells_of(channels, full, how.dy).randomise(random), dz = cells_of(channels, full, how.dy);
        Tensor<T> y = cells_of(channels, full, how.y).randomise(random);
        Tensor<T> z = cells_of(channels, full, how.y).randomise(random);
        Tensor<pk::Acc<T>> sums(2, channels, 1, 0, how.offset);
        const pk::PyramidProjectBwdDzParams params{
            pyramid(weights), dy.data(), dz.data(), dy.sn, dy.sc,       dy.ss,  epilogue.relu ? y.data() : nullptr,
            z.data(),         y.sn,      y.sc,      y.ss,  sums.data(), sums.sn};
        CHECK_OK(pk::launch_pyramid_project_bwd_dz(params, {}));
        const auto masked = [&](int i, int j, int k, int l) {
            return k >= given.cells[l] || (epilogue.relu && y(i, j, k) <= 0) ? 0.0 : dy(i, j, k);
        };
        dz.check("dz", [&](int i, int j, int k) {
            return of_channel(j, [&](int l, int o, int) { return masked(i, j, k, l) * slope(l, o); });
        });
        sums.check("sums", [&](int which, int j, int) {
            return of_channel(j, [&](int l, int o, int) {
                double sum = 0;
                for (int i = 0; i < given.n; ++i)
                    for (int k = 0; k < given.cells[l]; ++k) {
                        const double normal = (z(i, j, k) - centre(l, o)) * (epilogue.norm ? 0.5 : 1);
                        sum += masked(i, j, k, l) * (which ? 1 : normal);
                    }
                return sum;
            });
        });
    }

    void backward_products() {
        Tensor<T> dz = cells_of(channels, full, how.dy).randomise(random);
        Tensor<T> x = cells_of(given.c, cells, how.x).randomise(random), dx = cells_of(given.c, cells, how.x);
        CHECK_OK(pk::launch_pyramid_project_bwd_dpooled(
            {pyramid(weights), dz.data(), dz.sn, dz.sc, dz.ss, dx.data(), dx.sn, dx.sc, dx.ss}, {}));
        std::vector<Tensor<T>> dweights;
        for (int o : given.channels) dweights.emplace_back(1, given.c, o, how.weight, how.offset);
        CHECK_OK(pk::launch_pyramid_project_bwd_dweights(
            {pyramid(dweights), dz.data(), dz.sn, dz.sc, dz.ss, x.data(), x.sn, x.sc, x.ss}, {}));
        for (int l = 0, cell = 0, channel = 0; l < static_cast<int>(given.cells.size()); ++l) {
            dweights[l].check("dweights", [&](int, int c, int o) {
                double sum = 0;
                for (int i = 0; i < given.n; ++i)
                    for (int k = 0; k < given.cells[l]; ++k) sum += dz(i, channel + o, k) * x(i, c, cell + k);
                return sum;
            });
            cell += given.cells[l], channel += given.channels[l];
        }
        dx.check("dpooled", [&](int i, int c, int s) {
            int l = 0, channel = 0;
            while (s >= given.cells[l]) s -= given.cells[l], channel += given.channels[l++];
            double sum = 0;
            for (int o = 0; o < given.channels[l]; ++o) sum += dz(i, channel + o, s) * weights[l](0, c, o);
            return sum;
        });
    }
};

template <class T>
void run(unsigned seed, bool tf32 = false) {
    Random random(seed);
    const auto any = [&](int count) { return random.integer(0, count - 1); };
    for (const Case& given : cases) {
        const Variant how{any(4), any(4), any(4), any(4), any(2) ? 0 : any(9), seed};
        Problem<T> problem(given, how, {any(2) == 0, any(2) == 0, any(2) == 0, any(2) == 0}, pk::test::dtype_of<T>(),
                           tf32);
        problem.forward();
        problem.backward_dz();
        problem.backward_products();
    }
}

void refusals() {
    pk::PyramidProjectFwdParams params{};
    params.pyramid.n = params.pyramid.c = params.pyramid.full = 1;
    for (int levels : {0, 9}) {
        params.pyramid.levels = levels;
        CHECK(pk::launch_pyramid_project_fwd(params, {}).error ==
              "levels must be 1 to 8, got " + std::to_string(levels));
    }
    params.pyramid.levels = 1;
    CHECK(pk::launch_pyramid_project_fwd(params, {}).error == "level 0 has 0 channels and 0 of at most 1 cells");
}

}  // namespace

int main() {
    for (unsigned seed = 0; seed < 6; ++seed) {
        hostsim::set_seed(seed);
        run<float>(seed);
        run<float>(seed, true);
        run<pk::half>(seed);
        run<pk::bf16>(seed);
        run<double>(seed);
    }
    refusals();
    return pk::test::finish();
}
