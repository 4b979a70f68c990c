// Resampling along one axis: ATen's source indices and weights, forwards and as the support of a gather.
#pragma once

#include "common/check.h"
#include "common/hd.h"

namespace pk {

/// taken: the axis has that size already. The others are the modes of torch.nn.functional.interpolate.
enum class Resample : int { taken = 0, nearest = 1, half_pixel = 2, align_corners = 3 };

/// Source indices below and above an output index, and the weight of the one above.
template <class A>
struct Taps {
    int low, high;
    A above;
};

/// Output indices first to last; none where first > last.
struct Span {
    int first, last;
    PK_HD int count() const { return larger(0, last - first + 1); }
};

/// An axis of `size` seen at `full` positions. Positions are of type A, float except for maps of doubles; multiply and
/// add round once, as in ATen's CUDA build, and nearest is float for every dtype: another rounding picks other pixels.
struct ResizedAxis {
    int size, full;
    Resample how;
    float ratio;  // source steps per output step
    double wide_ratio;

    template <class A>
    PK_HD Taps<A> source(int d) const {
        if (how == Resample::taken) return {d, d, A(0)};
        if (how == Resample::nearest) {
            const int i = smaller(static_cast<int>(mul_rn(static_cast<float>(d), ratio)), size - 1);
            return {i, i, A(0)};
        }
        const A step = sizeof(A) == sizeof(double) ? static_cast<A>(wide_ratio) : static_cast<A>(ratio);
        const A position = how == Resample::align_corners
                               ? mul_rn(static_cast<A>(d), step)
                               : larger(fma_rn(static_cast<A>(d) + A(0.5), step, A(-0.5)), A(0));
        const int i = smaller(static_cast<int>(position), size - 1);
        // An axis that keeps its size reads nothing else, as on PyTorch's CPU: not even by a weight of zero.
        return {i, smaller(size == full ? i : i + 1, size - 1), position - static_cast<A>(i)};
    }

    /// What output d takes from source i: zero unless the forward maps it there.
    template <class A>
    PK_HD A weight(int d, int i) const {
        const Taps<A> taps = source<A>(d);
        if (how == Resample::taken || how == Resample::nearest) return taps.low == i ? A(1) : A(0);
        return (taps.low == i ? A(1) - taps.above : A(0)) + (taps.high == i ? taps.above : A(0));
    }

    /// Outputs that source i may reach: the algebraic bounds, one wider on each side because positions are rounded.
    PK_HD Span support(int i) const {
        int low = i + 1, high = i - 1;  // taken: itself alone
        if (how == Resample::nearest) {
            low = i * full / size, high = (i + 1) * full / size;
        } else if (how == Resample::align_corners) {
            const int steps = larger(size - 1, 1);
            low = floor_div((i - 1) * (full - 1), steps), high = ceil_div((i + 1) * (full - 1), steps);
        } else if (how == Resample::half_pixel) {
            // Positions before the first source are moved to it, and read the second as well.
            low = i == 1 ? 0 : floor_div((2 * i - 1) * full - size, 2 * size);
            high = ceil_div((2 * i + 3) * full - size, 2 * size);
        }
        return {larger(low - 1, 0), smaller(high + 1, full - 1)};
    }

    /// Whether the forward reads source i for output d: by a weight of zero too, which hands on NaN and infinity.
    template <class A>
    PK_HD bool reads(int d, int i) const {
        const Taps<A> taps = source<A>(d);
        return taps.low == i || taps.high == i;
    }

    /// Exactly the outputs that read source i.
    template <class A>
    PK_HD Span reached(int i) const {
        Span span = support(i);
        while (span.first <= span.last && !reads<A>(span.first, i)) ++span.first;
        while (span.first <= span.last && !reads<A>(span.last, i)) --span.last;
        return span;
    }
};

/// The axis of `size` resized to `full` as `how` says, or taken as it is where the map `is_taken`.
inline Status resized_axis(Resample how, int size, int full, bool is_taken, ResizedAxis& axis) {
    PK_CHECK(size >= 1 && full >= 1, "sizes must be positive, got ", size, " resized to ", full);
    PK_CHECK(is_taken || (2LL * size + 3) * full < (1LL << 31), "cannot resize ", size, " to ", full,
             ": positions need more than 32 bits");
    axis = {size, full, is_taken ? Resample::taken : how, 0, 0};
    if (how == Resample::align_corners) {
        axis.ratio = static_cast<float>(size - 1) / static_cast<float>(larger(full - 1, 1));
        axis.wide_ratio = static_cast<double>(size - 1) / larger(full - 1, 1);
    } else {
        axis.ratio = static_cast<float>(size) / static_cast<float>(full);
        axis.wide_ratio = static_cast<double>(size) / full;
    }
    return {};
}

}  // namespace pk
