// separable_pyramid's own kernels against plain loops in double, on small integers: every sum is exact, so results must
// be equal. Buffers end where their tensors end, elements between are NaN and must stay so.
#include "separable_pyramid/separable_pyramid.h"

#include <utility>
#include <vector>

#include "cells.h"
#include "check.h"

namespace {

using pk::Dtype;
using pk::test::Random;
using pk::test::Tensor;

struct Case {
    int n, c;
    std::vector<std::pair<int, int>> grids;
};

const Case cases[] = {
    {2, 20, {{1, 1}, {2, 2}, {3, 4}}},  // grids smaller than the kernel, more channels than a block's
    {3, 33, {{5, 1}, {1, 6}}},          // one column, one row
    {1, 7, {{6, 8}, {12, 8}, {4, 4}, {2, 2}, {1, 1}, {1, 2}, {3, 3}, {2, 5}}},
    {0, 5, {{2, 2}}},
};

template <class T>
struct Problem {
    const Case& given;
    Random random;
    int cells = 0;
    std::vector<Tensor<T>> kernels;  // (1, C, 9): as cells, so that they take every layout

    Problem(const Case& given_, unsigned seed) : given(given_), random(seed) {
        for (const auto& [rows, cols] : given.grids) {
            cells += rows * cols;
            kernels.emplace_back(1, given.c, 9, any(4), any(3)).randomise(random);
        }
    }
    int any(int count) { return random.integer(0, count - 1); }
    Tensor<T> packed() { return {given.n, given.c, cells, any(4), any(2) ? 0 : any(9)}; }

    pk::SeparablePyramid pyramid(std::vector<Tensor<T>>& weights) {
        pk::SeparablePyramid p{};
        p.dtype = pk::test::dtype_of<T>(), p.n = given.n, p.c = given.c, p.cells = cells;
        int first = 0;
        for (const auto& [rows, cols] : given.grids) {
            Tensor<T>& w = weights[p.levels];
            p.level[p.levels++] = {rows, cols, first, w.data(), w.sc, 3 * w.ss, w.ss};
            first += rows * cols;
        }
        return p;
    }

    /// Calls body(level, neighbour of cell s at tap t) where that lies inside the level's grid.
    template <class Body>
    void at_tap(int s, int t, Body body) {
        int l = 0, first = 0;
        for (; s >= first + given.grids[l].first * given.grids[l].second; ++l)
            first += given.grids[l].first * given.grids[l].second;
        const auto [rows, cols] = given.grids[l];
        const int row = (s - first) / cols + t / 3 - 1, col = (s - first) % cols + t % 3 - 1;
        if (0 <= row && row < rows && 0 <= col && col < cols) body(l, first + row * cols + col);
    }

    void depthwise(bool turned) {
        Tensor<T> x = packed().randomise(random), y = packed();
        CHECK_OK(pk::launch_separable_pyramid_depthwise(
            {pyramid(kernels), x.data(), x.sn, x.sc, x.ss, y.data(), y.sn, y.sc, y.ss, turned}, {}));
        y.check(turned ? "dcells" : "y", [&](int i, int c, int s) {
            double sum = 0;
            for (int t = 0; t < 9; ++t)
                at_tap(s, t, [&](int l, int from) { sum += kernels[l](0, c, turned ? 8 - t : t) * x(i, c, from); });
            return sum;
        });
    }

    void ddepthwise() {
        Tensor<T> x = packed().randomise(random), dy = packed().randomise(random);
        std::vector<Tensor<T>> gradients;
        for (size_t l = 0; l < given.grids.size(); ++l) gradients.emplace_back(1, given.c, 9, any(4), any(3));
        CHECK_OK(pk::launch_separable_pyramid_bwd_ddepthwise(
            {pyramid(gradients), dy.data(), dy.sn, dy.sc, dy.ss, x.data(), x.sn, x.sc, x.ss}, {}));
        for (size_t wanted = 0; wanted < given.grids.size(); ++wanted)
            gradients[wanted].check("ddepthwise", [&](int, int c, int t) {
                double sum = 0;
                for (int i = 0; i < given.n; ++i)
                    for (int s = 0; s < cells; ++s)
                        at_tap(s, t, [&](int l, int from) {
                            if (l == static_cast<int>(wanted)) sum += dy(i, c, s) * x(i, c, from);
                        });
                return sum;
            });
    }
};

template <class T>
void run(unsigned seed) {
    for (const Case& given : cases) {
        Problem<T> problem(given, seed);
        problem.depthwise(false);
        problem.depthwise(true);
        problem.ddepthwise();
    }
}

void refusals() {
    pk::SeparablePyramidDepthwiseParams params{};
    params.pyramid.n = params.pyramid.c = 1;
    for (int levels : {0, 9}) {
        params.pyramid.levels = levels;
        CHECK(pk::launch_separable_pyramid_depthwise(params, {}).error ==
              "levels must be 1 to 8, got " + std::to_string(levels));
    }
    params.pyramid.levels = 1;
    params.pyramid.level[0].rows = params.pyramid.level[0].cols = 2;
    CHECK(pk::launch_separable_pyramid_depthwise(params, {}).error == "the grids have 4 cells, not 0");
}

}  // namespace

int main() {
    for (unsigned seed = 0; seed < 6; ++seed) {
        hostsim::set_seed(seed);
        run<float>(seed);
        run<pk::half>(seed);
        run<pk::bf16>(seed);
        run<double>(seed);
    }
    refusals();
    return pk::test::finish();
}
