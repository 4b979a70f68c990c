// dx and dw of dilated_branches on Hopper against plain loops. Data are small integers: sums are exact in any order.
#include <memory>

#include "common/ptx/site.cuh"
#include "dilated_branches/dilated_branches.h"
#include "dilated_branches/units.h"
#include "hostsim/tests/check.h"

using namespace pk;
using namespace pk::test;

namespace {

/// A pair of CTAs takes all units, of 256 columns, or as many pairs as there are take one each, of 128.
constexpr int one_pair = 2, many_pairs = 512;

struct Problem {
    Extent map;
    int c;
    std::vector<BranchShape> shapes;

    size_t pixels() const { return static_cast<size_t>(map.n) * map.h * map.w; }
};

/// Operands, gradients by plain loops, and the calls that should give the same.
template <class T>
class Gradients {
  public:
    Gradients(const Problem& problem, int blocks, Random& random)
        : problem_(problem), blocks_(blocks), x_(problem.pixels() * problem.c) {
        branches_ = {dtype_of<T>(), false, 90, problem.map, problem.c, 0, 0, {}};
        for (const BranchShape shape : problem.shapes) {
            weights_.push_back(std::make_unique<Buffer<T>>(1ull * shape.o * shape.side * shape.side * problem.c));
            weights_.back()->fill_integers(random, -2, 2);
            Branch& branch = branches_.branch[branches_.count++];
            branch.shape = shape, branch.first = branches_.channels, branch.weight = weights_.back()->data();
            branch.w_o = 1LL * shape.side * shape.side * problem.c, branch.w_c = 1, branch.w_tap = problem.c;
            branches_.channels += shape.o;
        }
        dz_ = std::make_unique<Buffer<T>>(problem.pixels() * branches_.channels);
        x_.fill_integers(random, -2, 2);
        dz_->fill_integers(random, -2, 2);
        multiply_plainly();
    }

    /// dx in channels_last, or with the channels outside the pixels.
    void check_dx(bool channels_last) {
        const auto [n, h, w] = problem_.map;
        const int c = problem_.c;
        Buffer<T> dx(x_.size());
        DilatedBranchesBwdDxParams p{};
        p.branches = branches_, p.dx = dx.data(), p.blocks = blocks_;
        p.dz = dz_->data(), p.dz_n = step(2), p.dz_h = step(1), p.dz_w = step(0);
        p.dx_n = 1LL * h * w * c, p.dx_c = channels_last ? 1 : h * w, p.dx_h = channels_last ? w * c : w;
        p.dx_w = channels_last ? c : 1;
        CHECK(takes_sm90_body(p));
        hostsim::counts = {};
        CHECK_OK(launch_dilated_branches_bwd_dx(p, {}));
        std::vector<float> want(dx.size());
        for (size_t pixel = 0; pixel < problem_.pixels(); ++pixel)
            for (int i = 0; i < c; ++i) {
                const size_t image = pixel / (h * w), at = pixel % (h * w);
                want[channels_last ? pixel * c + i : (image * c + i) * h * w + at] =
                    static_cast<float>(static_cast<T>(dx_[pixel * c + i]));
            }
        CHECK_EQUAL("dx", dx, want);
        const Extent tile = pixel_tile(problem_.map, 128);
        const int columns = blocks_ == one_pair ? 256 : 128;
        const auto planned =
            banded_tiles(problem_.map, tile, problem_.shapes.data(), branches_.count, ceil_div(c, columns), 64);
        int64_t steps = 0;
        for (size_t group = 0; group < planned.depth.size(); ++group)
            steps += int64_t{planned.tiles.units_of(static_cast<int>(group))} * planned.depth[group];
        CHECK(hostsim::counts.wgmma == steps * 2 * wgmma_a_step, hostsim::counts.wgmma, " for ", steps, " steps");
    }

    /// dw with channels innermost, or with taps innermost as a contiguous weight has them.
    void check_dw(bool channels_last, int splits) {
        DilatedBranchesBwdDwParams p{};
        p.branches = branches_;
        std::vector<std::unique_ptr<Buffer<T>>> dw;
        size_t elements = 0;
        for (int b = 0; b < branches_.count; ++b) {
            Branch& branch = p.branches.branch[b];
            elements += weights_[b]->size();
            dw.push_back(std::make_unique<Buffer<T>>(weights_[b]->size()));
            branch.weight = dw.back()->data();
            if (!channels_last) branch.w_c = branch.shape.side * branch.shape.side, branch.w_tap = 1;
        }
        Buffer<float> part(splits > 1 ? splits * elements : 1);
        p.dz = dz_->data(), p.dz_n = step(2), p.dz_h = step(1), p.dz_w = step(0);
        p.x = x_.data(), p.x_w = problem_.c, p.x_h = problem_.map.w * p.x_w, p.x_n = problem_.map.h * p.x_h;
        p.part = part.data(), p.splits = splits, p.blocks = blocks_;
        CHECK(takes_sm90_body(p));
        CHECK_OK(launch_dilated_branches_bwd_dw(p, {}));
        for (int b = 0; b < branches_.count; ++b) {
            const int c = problem_.c, taps = problem_.shapes[b].side * problem_.shapes[b].side;
            std::vector<float> want(dw_[b].size());
            for (size_t i = 0; i < want.size(); ++i) {
                const size_t o = i / c / taps, tap = i / c % taps, channel = i % c;
                want[channels_last ? i : (o * c + channel) * taps + tap] =
                    static_cast<float>(static_cast<T>(dw_[b][i]));
            }
            CHECK_EQUAL("dw", *dw[b], want);
        }
    }

  private:
    static constexpr int64_t wgmma_a_step = 2 * 128 * 4;  // threads of both warpgroups, instructions of 16

    /// Elements from one pixel of dz to the next, one row, one image.
    int64_t step(int axis) const {
        const int64_t steps[] = {1, problem_.map.w, int64_t{problem_.map.w} * problem_.map.h};
        return steps[axis] * branches_.channels;
    }

    void multiply_plainly() {
        const auto [n, h, w] = problem_.map;
        const int c = problem_.c;
        dx_.resize(x_.size());
        for (int b = 0; b < branches_.count; ++b) {
            const Branch& branch = branches_.branch[b];
            const int side = branch.shape.side, reach = side / 2 * branch.shape.dilation;
            std::vector<float>& dw = dw_.emplace_back(weights_[b]->size());
            const auto add = [&](size_t to, size_t from, int tap) {
                for (int o = 0; o < branch.shape.o; ++o) {
                    const auto z = static_cast<float>((*dz_)[to * branches_.channels + branch.first + o]);
                    const size_t row = (1ull * o * side * side + tap) * c;
                    for (int i = 0; i < c; ++i) {
                        dx_[from * c + i] += z * static_cast<float>((*weights_[b])[row + i]);
                        dw[row + i] += z * static_cast<float>(x_[from * c + i]);
                    }
                }
            };
            for (int image = 0; image < n; ++image)
                for (int y = 0; y < h; ++y)
                    for (int x = 0; x < w; ++x)
                        for (int tap = 0; tap < side * side; ++tap) {
                            const int sy = y + tap / side * branch.shape.dilation - reach;
                            const int sx = x + tap % side * branch.shape.dilation - reach;
                            if (0 <= sy && sy < h && 0 <= sx && sx < w)
                                add((1ull * image * h + y) * w + x, (1ull * image * h + sy) * w + sx, tap);
                        }
        }
    }

    Problem problem_;
    int blocks_;
    Branches branches_;
    Buffer<T> x_;
    std::unique_ptr<Buffer<T>> dz_;
    std::vector<std::unique_ptr<Buffer<T>>> weights_;
    std::vector<float> dx_;
    std::vector<std::vector<float>> dw_;
};

template <class T>
void check(const Problem& problem, uint64_t seed, bool channels_last, int splits, int blocks) {
    hostsim::set_seed(seed);
    Random random(seed);
    Gradients<T> gradients(problem, blocks, random);
    gradients.check_dx(channels_last);
    gradients.check_dw(channels_last, splits);
}

/// What TMA loads or this build's bodies do not take goes to the body for every device.
void check_refused() {
    alignas(16) static half memory[64];
    const auto taken = [](auto&& change) {
        DilatedBranchesBwdDxParams dx{};
        dx.branches = {Dtype::f16, false, 90, {1, 2, 2}, 8, 16, 2, {}};
        for (int b = 0; b < 2; ++b) dx.branches.branch[b] = {{8, 3, 1}, 8 * b, memory, 72, 1, 8, {}};
        dx.dz = memory, dx.dz_n = 64, dx.dz_h = 32, dx.dz_w = 16;
        change(dx);
        DilatedBranchesBwdDwParams dw{};
        dw.branches = dx.branches, dw.dz = dx.dz, dw.dz_n = dx.dz_n, dw.dz_h = dx.dz_h, dw.dz_w = dx.dz_w;
        dw.x = memory, dw.x_n = 32, dw.x_h = 16, dw.x_w = 8;
        return std::pair{takes_sm90_body(dx), takes_sm90_body(dw)};
    };
    const std::pair both{true, true}, neither{false, false};
    CHECK(taken([](auto&) {}) == both);
    CHECK(taken([](auto& p) { p.branches.arch = 80; }) == neither);
    CHECK(taken([](auto& p) { p.branches.dtype = Dtype::f32; }) == neither);
    CHECK(taken([](auto& p) { p.branches.map.n = 0; }) == neither);
    CHECK(taken([](auto& p) { p.dz = memory + 1; }) == neither);
    CHECK(taken([](auto& p) { p.dz_w = 20; }) == neither);
    CHECK(taken([](auto& p) { p.dz_n = 0; }) == neither);
    CHECK(taken([](auto& p) { p.branches.branch[1].first = 4; }) == neither);
    CHECK(taken([](auto& p) { p.branches.branch[1].w_tap = 1; }) == std::pair(false, true));
    CHECK(taken([](auto& p) { p.branches.branch[0].weight = memory + 4; }) == std::pair(false, true));
}

}  // namespace

int main() {
    const std::vector<Problem> problems = {
        // An odd map, dilations within it and beyond, channels that end inside boxes and tiles.
        {{5, 9, 11}, 328, {{72, 1, 1}, {136, 3, 4}, {64, 3, 7}}},
        // One image, an even number of output tiles, a dilation that leaves one column.
        {{1, 19, 18}, 256, {{256, 3, 6}, {64, 1, 1}, {64, 3, 17}}},
        // An odd number of output tiles, one of input tiles; taps that meet no pixel.
        {{2, 8, 16}, 64, {{320, 3, 2}, {8, 3, 20}}},
    };
    for (const Problem& problem : problems) {
        check<bf16>(problem, 0, true, 1, one_pair);
        check<half>(problem, 1, false, 1, one_pair);
        check<bf16>(problem, 2, true, 3, many_pairs);
        check<half>(problem, 3, true, 1, many_pairs);
    }
    check_refused();
    return finish();
}
