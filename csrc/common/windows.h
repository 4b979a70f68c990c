// Pooling windows along one axis: one formula for the adaptive, fixed and ceil windowings.
#pragma once

#include "common/check.h"
#include "common/hd.h"

namespace pk {

enum class Windows : int { adaptive = 0, fixed = 1, ceil = 2 };

/// The windows of one level along an axis of `size`: window i covers
/// [max(0, (i * step + lead) / den), min(size, ((i + 1) * step + tail) / den)), divisions towards minus infinity.
struct Axis {
    int size, count, step, lead, tail, den;

    PK_HD int start(int i) const { return larger(0, i * step + lead) / den; }
    PK_HD int end(int i) const { return smaller(size, ((i + 1) * step + tail) / den); }
    /// What an average divides by: the window's size, counting the padding that "ceil" adds.
    PK_HD int length(int i) const { return den == 1 ? step : end(i) - start(i); }
    /// The first window that holds position p; where none does, first(p) > last(p).
    PK_HD int first(int p) const { return larger(0, ceil_div((p + 1) * den - tail, step) - 1); }
    PK_HD int last(int p) const { return smaller(count - 1, ((p + 1) * den - 1 - lead) / step); }
};

/// The windows of `bins` along an axis of `size`; an error where they do not exist or int32 does not hold them.
inline Status axis_windows(int bins, int size, Windows windows, Axis& axis) {
    PK_CHECK(bins >= 1 && size >= 1, "bins and sizes must be positive, got bin ", bins, " on a map of size ", size);
    PK_CHECK((size + 1LL) * (bins + 1LL) < (1LL << 30), "bin ", bins, " on a map of size ", size, " is too large");
    if (windows == Windows::adaptive) {
        axis = {size, bins, size, 0, bins - 1, bins};
    } else if (windows == Windows::fixed) {
        const int step = size / bins;
        PK_CHECK(step > 0, "fixed windows of bin ", bins, " are empty on a map of size ", size);
        axis = {size, size / step, step, 0, 0, 1};
    } else {
        const int step = ceil_div(size, bins), pad = (step * bins - size + 1) / 2;
        PK_CHECK(pad <= step / 2, "ceil windows of bin ", bins, " on a map of size ", size, " need padding ", pad,
                 ", more than half of ", step);
        axis = {size, (size + 2 * pad - step) / step + 1, step, -pad, -pad, 1};
    }
    return {};
}

}  // namespace pk
