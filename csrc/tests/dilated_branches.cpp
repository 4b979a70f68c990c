// dilated_branches' kernels against plain loops in double, on small integers: every sum is exact, so results must be
// equal, whatever the body, the shares, the alignment and the order of threads.
#include "dilated_branches/dilated_branches.h"

#include <array>

#include "check.h"
#include "common/ptx/site.cuh"
#include "common/scalar.cuh"

namespace {

using namespace pk;
using test::Buffer;
using test::Random;

struct Case {
    Extent map;
    int c;
    std::vector<BranchShape> shapes;
};

const Case cases[] = {
    {{2, 9, 20}, 136, {{40, 3, 1}, {24, 1, 1}, {24, 3, 15}}},  // the ring wraps; a rate of a tile's width less one
    {{1, 13, 33}, 20, {{6, 3, 8}, {140, 3, 40}}},              // half vectors of channels, only centre taps, two blocks
    {{9, 4, 3}, 72, {{200, 3, 2}}},                            // images folded into tiles, a pair with one tile left
    {{3, 1, 1}, 8, {{4, 1, 1}, {5, 3, 6}}},
    {{0, 5, 5}, 16, {{8, 3, 1}}},
};

/// Choices that results must not depend on, and the thread schedule.
struct Variant {
    int arch, blocks, offset;  // offset: elements before a tensor's first
    bool channels_first;       // of y and dx
    bool replayed;             // the forward, as in a graph
    unsigned seed;
};

const Variant variants[] = {{80, 2, 0, false, false, 1},
                            {80, 9, 1, true, true, 2},
                            {86, 5, 0, false, false, 5},
                            {90, 6, 0, false, true, 3},
                            {90, 13, 0, true, false, 4}};

template <class T>
struct Call {
    const Case& given;
    const Variant& variant;
    int channels = 0, taps = 0;
    size_t pixels;
    Buffer<T> x, w, y, z, dz, dx, dw;
    Branches branches{};

    static int sum(const Case& given, auto&& part) {
        int total = 0;
        for (const BranchShape& s : given.shapes) total += part(s);
        return total;
    }
    static int outputs(const Case& given) {
        return sum(given, [](BranchShape s) { return s.o; });
    }
    static size_t weights(const Case& given) {
        return static_cast<size_t>(sum(given, [&](BranchShape s) { return s.o * s.side * s.side * given.c; }));
    }
    static size_t area(const Case& given) { return static_cast<size_t>(given.map.n * given.map.h * given.map.w); }
    static size_t elements(const Case& given, int c) { return area(given) * static_cast<size_t>(c); }

    Call(const Case& given_, const Variant& variant_, bool tf32, Random& random)
        : given(given_),
          variant(variant_),
          channels(outputs(given)),
          pixels(area(given)),
          x(elements(given, given.c), variant.offset),
          w(weights(given), variant.offset),
          y(elements(given, channels), variant.offset),
          z(elements(given, channels)),
          dz(elements(given, channels), variant.offset),
          dx(elements(given, given.c), variant.offset),
          dw(weights(given)) {
        x.fill_integers(random, -3, 3);
        w.fill_integers(random, -2, 2);
        dz.fill_integers(random, -2, 2);
        branches.dtype = test::dtype_of<T>();
        branches.tf32 = tf32;
        branches.arch = variant.arch;
        branches.map = given.map;
        branches.c = given.c;
        branches.channels = channels;
    }

    /// The branches with weights, or their gradients, in `memory`.
    Branches with(T* memory) const {
        Branches b = branches;
        for (const BranchShape& s : given.shapes) {
            const int first = b.count ? b.branch[b.count - 1].first + b.branch[b.count - 1].shape.o : 0;
            const int k = s.side * s.side;
            b.branch[b.count++] = {s, first, memory, 1LL * k * given.c, 1, given.c, {}};
            memory += s.o * k * given.c;
        }
        return b;
    }

    /// Sums over branch b's taps inside the map: body(tap, pixel it reads) for output pixel p.
    template <class Body>
    void for_each_tap(const BranchShape& s, int p, Body&& body) const {
        const Extent map = given.map;
        const int image = p / (map.h * map.w), row = p / map.w % map.h, col = p % map.w;
        for (int tap = 0; tap < s.side * s.side; ++tap) {
            const int r = row + (tap / s.side - s.side / 2) * s.dilation;
            const int q = col + (tap % s.side - s.side / 2) * s.dilation;
            if (0 <= r && r < map.h && 0 <= q && q < map.w) body(tap, (image * map.h + r) * map.w + q);
        }
    }

    /// body(branch, tap, output pixel, input pixel) for every product of pixels.
    template <class Body>
    void for_each_pair(Body&& body) {
        const Branches b = with(w.data());
        for (int i = 0; i < b.count; ++i)
            for (int p = 0; p < static_cast<int>(pixels); ++p)
                for_each_tap(b.branch[i].shape, p, [&](int tap, int q) { body(b.branch[i], tap, p, q); });
    }

    T value(const void* memory, std::int64_t at) const { return static_cast<const T*>(memory)[at]; }

    /// Where channel c of pixel p lies in a map of `all` channels, in this variant's layout.
    size_t place(int p, int c, int all) const {
        const int area = given.map.h * given.map.w;
        return static_cast<size_t>(variant.channels_first ? (p / area * all + c) * area + p % area : p * all + c);
    }
    /// Its strides: n, c, h, w.
    std::array<std::int64_t, 4> strides(int all) const {
        const std::int64_t h = given.map.h, width = given.map.w;
        if (variant.channels_first) return {all * h * width, h * width, width, 1};
        return {all * h * width, 1, width * all, all};
    }

    /// Exactly the planned steps were multiplied and copied: a tap multiplied in vain changes no result.
    void check_counts(const DilatedBranchesFwdParams& p) {
        BranchesPlan plan{};
        CHECK_OK(plan_dilated_branches_fwd(p, plan));
        CHECK(plan.steps <= plan.dense);
        const auto& [mma, wgmma, loads] = hostsim::counts;
        if (plan.sm90) {
            CHECK(wgmma == plan.steps * 2 * 128 * 4, wgmma, " for ", plan.steps, " steps");
            CHECK(loads == plan.steps * 2, loads, " for ", plan.steps, " steps");
        } else if (sizeof(T) == 2 || p.branches.tf32) {
            const int per_warp = 64 / 16 * (32 / 8) * 4;
            CHECK(mma == plan.steps * 8 * 32 * per_warp, mma, " for ", plan.steps, " steps");
        }
    }

    void forward() {
        DilatedBranchesFwdParams p{};
        p.branches = with(w.data());
        p.x = x.data();
        p.x_n = 1LL * given.map.h * given.map.w * given.c, p.x_h = 1LL * given.map.w * given.c, p.x_w = given.c;
        const auto s = strides(channels);
        p.y = y.data(), p.y_n = s[0], p.y_c = s[1], p.y_h = s[2], p.y_w = s[3];
        p.z = z.data();
        p.relu = true;
        const int tiles = branches_pixel_tiles(p.branches);
        Buffer<float> part(static_cast<size_t>(3 * tiles * channels));
        p.part = part.data();
        Buffer<char> scratch(static_cast<size_t>(branches_scratch_bytes) * static_cast<size_t>(variant.blocks));
        p.scratch = scratch.data(), p.blocks = variant.blocks;
        hostsim::counts = {};
        hostsim::capture();
        CHECK_OK(launch_dilated_branches_fwd(p, {}));
        check_counts(p);
        if (variant.replayed) {
            y.poison(), z.poison(), part.poison();
            const std::string error = hostsim::replay();
            CHECK(error.empty(), error);
        }

        std::vector<double> want(z.size()), want_y(z.size()), sums(static_cast<size_t>(channels));
        for_each_pair([&](const Branch& b, int tap, int out, int in) {
            for (int o = 0; o < b.shape.o; ++o) {
                double sum = 0;
                for (int c = 0; c < given.c; ++c)
                    sum += widen(x[static_cast<size_t>(in * given.c + c)]) *
                           widen(value(b.weight, o * b.w_o + tap * b.w_tap + c));
                want[static_cast<size_t>(out * channels + b.first + o)] += sum;
                sums[static_cast<size_t>(b.first + o)] += sum;
            }
        });
        for (int i = 0; i < static_cast<int>(pixels); ++i)
            for (int o = 0; o < channels; ++o)
                want_y[place(i, o, channels)] = std::max(0.0, want[static_cast<size_t>(i * channels + o)]);
        CHECK_CLOSE("z", z, want, 0);
        CHECK_CLOSE("y", y, want_y, 0);
        for (int o = 0; o < channels; ++o) {
            double count = 0, sum = 0;
            for (int t = 0; t < tiles; ++t) {
                const float* at = part.data() + 3 * t * channels + o;
                count += at[0], sum += static_cast<double>(at[0]) * at[channels];
            }
            CHECK(count == static_cast<double>(pixels) &&
                      std::abs(sum - sums[static_cast<size_t>(o)]) < 1e-2 * (1 + count),
                  "statistics of channel ", o, ": ", count, " pixels, sum ", sum);
        }
    }

    void backward(int splits) {
        DilatedBranchesBwdDxParams p{with(w.data()),
                                     dz.data(),
                                     1LL * given.map.h * given.map.w * channels,
                                     1LL * given.map.w * channels,
                                     channels,
                                     dx.data(),
                                     0,
                                     0,
                                     0,
                                     0,
                                     {}};
        const auto s = strides(given.c);
        p.dx_n = s[0], p.dx_c = s[1], p.dx_h = s[2], p.dx_w = s[3];
        CHECK_OK(launch_dilated_branches_bwd_dx(p, {}));
        Buffer<float> part(splits > 1 ? dw.size() * static_cast<size_t>(splits) : 0);
        DilatedBranchesBwdDwParams q{with(dw.data()),
                                     dz.data(),
                                     p.dz_n,
                                     p.dz_h,
                                     p.dz_w,
                                     x.data(),
                                     1LL * given.map.h * given.map.w * given.c,
                                     1LL * given.map.w * given.c,
                                     given.c,
                                     part.data(),
                                     splits,
                                     {},
                                     {},
                                     0};
        CHECK_OK(launch_dilated_branches_bwd_dw(q, {}));

        std::vector<double> want_dx(dx.size()), want_dw(dw.size());
        for_each_pair([&](const Branch& b, int tap, int out, int in) {
            for (int o = 0; o < b.shape.o; ++o) {
                const double g = widen(dz[static_cast<size_t>(out * channels + b.first + o)]);
                const std::int64_t row = o * b.w_o + tap * b.w_tap;
                for (int c = 0; g != 0 && c < given.c; ++c) {
                    want_dx[place(in, c, given.c)] += g * widen(value(b.weight, row + c));
                    want_dw[static_cast<size_t>(static_cast<T*>(b.weight) - w.data() + row + c)] +=
                        g * widen(x[static_cast<size_t>(in * given.c + c)]);
                }
            }
        });
        CHECK_CLOSE("dx", dx, want_dx, 0);
        CHECK_CLOSE("dw", dw, want_dw, 0);
    }
};

template <class T>
void check_all(bool tf32) {
    Random random(7);
    for (const Case& given : cases)
        for (const Variant& variant : variants) {
            if (variant.arch == 90 && sizeof(T) == 4) continue;  // the same body as on 8.0
            hostsim::set_seed(variant.seed);
            Call<T> call(given, variant, tf32, random);
            call.forward();
            if (variant.arch < 90) call.backward(variant.offset ? 3 : 1);
        }
}

}  // namespace

int main() {
    check_all<half>(false);
    check_all<float>(true);
    check_all<float>(false);
    return test::finish();
}
