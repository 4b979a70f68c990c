// Maps in any layout and what lies behind a resized pixel, in double, for the tests of ops that resample.
#pragma once

#include <algorithm>
#include <array>
#include <functional>
#include <vector>

#include "common/resample.h"
#include "tests/check.h"

namespace pk::test {

struct Size {
    int c, h, w;
};

enum class Layout { nchw, channels_last, padded };

/// Strides of (n, c, h, w) in a layout; `padded` leaves gaps after every row and channel.
inline std::array<int64_t, 4> strides_of(Layout layout, const Size& s) {
    if (layout == Layout::channels_last) return {int64_t{s.c} * s.h * s.w, 1, int64_t{s.c} * s.w, s.c};
    const int64_t row = s.w + (layout == Layout::padded ? 3 : 0),
                  plane = row * s.h + (layout == Layout::padded ? 1 : 0);
    return {plane * s.c, plane, row, 1};
}

/// A map in a buffer that ends with its last element.
template <class T>
struct Tensor {
    int n;
    Size size;
    std::array<int64_t, 4> strides;
    Buffer<T> values;

    Tensor(int n, const Size& s, Layout layout, size_t offset)
        : n(n), size(s), strides(strides_of(layout, s)), values(at(n - 1, s.c - 1, s.h - 1, s.w - 1) + 1, offset) {}
    size_t at(int i, int c, int y, int x) const {
        return i * strides[0] + c * strides[1] + y * strides[2] + x * strides[3];
    }
    T& operator()(int i, int c, int y, int x) { return values[at(i, c, y, x)]; }
    /// The elements in the order of (n, c, h, w).
    std::vector<double> logical() const {
        std::vector<double> all;
        for (int i = 0; i < n; ++i)
            for (int c = 0; c < size.c; ++c)
                for (int y = 0; y < size.h; ++y)
                    for (int x = 0; x < size.w; ++x) all.push_back(static_cast<double>(values[at(i, c, y, x)]));
        return all;
    }
};

/// Call `use(i, weight)` for the source pixels of output d along one axis.
inline void each_source(Resample how, int size, int full, int d, const std::function<void(int, double)>& use) {
    if (how == Resample::nearest) {
        const float ratio = static_cast<float>(size) / static_cast<float>(full);
        return use(std::min(static_cast<int>(static_cast<float>(d) * ratio), size - 1), 1);
    }
    const double position = how == Resample::align_corners ? (full > 1 ? double(d) * (size - 1) / (full - 1) : 0)
                                                           : std::max(0.0, (d + 0.5) * size / full - 0.5);
    const int low = std::min(static_cast<int>(position), size - 1), high = std::min(low + 1, size - 1);
    use(low, 1 - (position - low));
    use(high, position - low);
}

}  // namespace pk::test
