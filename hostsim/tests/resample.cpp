// Resampling along one axis, for every pair of sizes up to 70: positions against their exact values, weights against
// the forward, and the support of a gather against every output that a source reaches.
#include "common/resample.h"

#include <vector>

#include "hostsim/tests/check.h"

using namespace pk;

namespace {

constexpr int most = 70;
constexpr Resample modes[] = {Resample::taken, Resample::nearest, Resample::half_pixel, Resample::align_corners};

/// The source position of output d in exact arithmetic, rounded once.
double position(Resample how, int size, int full, int d) {
    switch (how) {
        case Resample::taken:
            return d;
        case Resample::nearest:
            return static_cast<double>(static_cast<long long>(d) * size) / full;
        case Resample::half_pixel:
            return std::max(0.0, ((2.0 * d + 1) * size - full) / (2.0 * full));
        case Resample::align_corners:
            return full > 1 ? static_cast<double>(static_cast<long long>(d) * (size - 1)) / (full - 1) : 0;
    }
    return 0;
}

/// Where output d reads from is where the formula says, up to the rounding of A.
template <class A>
void check_source(const ResizedAxis& axis, int d) {
    const Taps<A> taps = axis.source<A>(d);
    const double exact = position(axis.how, axis.size, axis.full, d);
    CHECK(0 <= taps.low && taps.low <= taps.high && taps.high < axis.size && taps.high <= taps.low + 1, "of ",
          axis.size, " at ", axis.full);
    CHECK(0 <= taps.above && taps.above < 1, "of ", axis.size, " at ", axis.full);
    const double tolerance = sizeof(A) == 8 && axis.how != Resample::nearest ? 1e-13 : 1e-5;
    if (axis.how == Resample::nearest) {
        CHECK(taps.low - tolerance <= exact && (exact <= taps.low + 1 + tolerance || taps.low == axis.size - 1), d,
              " of ", axis.size, " at ", axis.full);
    } else {
        // Beyond the last pixel's centre both taps are that pixel, whatever their weights.
        const double got = taps.low == taps.high ? taps.low : taps.low + static_cast<double>(taps.above);
        CHECK(std::abs(got - std::min(exact, axis.size - 1.0)) <= tolerance, d, " of ", axis.size, " at ", axis.full);
    }
}

template <class A>
void check_axis(const ResizedAxis& axis) {
    std::vector<std::vector<A>> weights(axis.full, std::vector<A>(axis.size, A(0)));
    for (int d = 0; d < axis.full; ++d) {
        check_source<A>(axis, d);
        const Taps<A> taps = axis.source<A>(d);
        weights[d][taps.low] += 1 - taps.above;
        weights[d][taps.high] += taps.above;
        double sum = 0;
        bool same = true;
        for (int i = 0; i < axis.size; ++i) {
            const A weight = axis.weight<A>(d, i);
            same &= weight == weights[d][i];
            sum += static_cast<double>(weight);
        }
        CHECK(same, "weights of output ", d, " of ", axis.size, " at ", axis.full);
        CHECK(std::abs(sum - 1) < 1e-6, "weights of output ", d, " sum to ", sum, ", ", axis.size, " at ", axis.full);
    }
    for (int i = 0; i < axis.size; ++i) {
        const Span support = axis.support(i), reached = axis.reached<A>(i);
        bool covered = true, exact = true;
        for (int d = 0; d < axis.full; ++d) {
            const Taps<A> taps = axis.source<A>(d);
            const bool is_reached = taps.low == i || taps.high == i;
            covered &= !is_reached || (support.first <= d && d <= support.last);
            exact &= is_reached == (reached.first <= d && d <= reached.last);
        }
        CHECK(support.first >= 0 && support.last < axis.full, "source ", i, " of ", axis.size, " at ", axis.full);
        CHECK(covered, "the support of source ", i, " of ", axis.size, " at ", axis.full);
        CHECK(exact, "what source ", i, " reaches, of ", axis.size, " at ", axis.full);
        CHECK(support.count() <= reached.count() + 6 || reached.count() == 0, "the support of source ", i, " is wide");
    }
}

}  // namespace

int main() {
    for (int size = 1; size <= most; ++size)
        for (int full = 1; full <= most; ++full)
            for (const Resample how : modes) {
                if (how == Resample::taken && size != full) continue;
                ResizedAxis axis;
                CHECK_OK(resized_axis(how, size, full, how == Resample::taken, axis));
                check_axis<float>(axis);
                check_axis<double>(axis);
            }
    ResizedAxis axis;
    CHECK(!resized_axis(Resample::nearest, 0, 4, false, axis).ok());
    CHECK(!resized_axis(Resample::half_pixel, 1 << 16, 1 << 16, false, axis).ok());
    return test::finish();
}
