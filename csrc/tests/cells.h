// Packed cells in every layout that kernels must take, filled with small integers.
#pragma once

#include <vector>

#include "check.h"
#include "common/scalar.cuh"

namespace pk::test {

/// An (N, C, S) tensor with elements that are not its own, in a buffer of no more than its size.
template <class T>
struct Tensor {
    int n, c, s;
    std::int64_t sn = 0, sc = 0, ss = 0;
    int offset;
    std::vector<T> buffer;

    /// layout: 0 contiguous, 1 channels last, 2 channels last with room for 8 more, 3 every third element.
    Tensor(int n_, int c_, int s_, int layout, int offset_) : n(n_), c(c_), s(s_), offset(offset_) {
        if (layout == 0) {
            ss = 1, sc = s, sn = 1LL * c * s;
        } else {
            sc = layout == 3 ? 3 : 1;
            ss = layout == 3 ? 3 * c + 1 : layout == 2 ? (c + 15) / 8 * 8 : c;
            sn = ss * s;
        }
        const std::int64_t last = n ? (n - 1) * sn + (c - 1) * sc + (s - 1) * ss + 1 : 0;
        buffer.assign(offset + last, pk::narrow<T>(NAN));
    }
    T* data() { return buffer.data() + offset; }
    T& at(int i, int j, int k) { return data()[i * sn + j * sc + k * ss]; }
    double operator()(int i, int j, int k) { return pk::widen(at(i, j, k)); }

    Tensor& randomise(Random& random) {
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < c; ++j)
                for (int k = 0; k < s; ++k) at(i, j, k) = pk::narrow<T>(random.integer(-3, 3));
        return *this;
    }

    /// Whether every element is expected(i, j, k) rounded to T, and no other was written.
    template <class Expected>
    void check(const char* what, Expected expected) {
        std::int64_t wrong = 0, written = 0;
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < c; ++j)
                for (int k = 0; k < s; ++k) {
                    const double value = pk::widen(pk::narrow<T>(static_cast<pk::Acc<T>>(expected(i, j, k))));
                    wrong += !((*this)(i, j, k) == value);
                }
        for (const T& value : buffer) written += !std::isnan(static_cast<double>(pk::widen(value)));
        CHECK(wrong == 0, pk::name_of(dtype_of<T>()), " ", what, ": ", wrong, " of ", 1LL * n * c * s,
              " elements are wrong");
        CHECK(written == 1LL * n * c * s, what, ": ", written, " elements were written, not ", 1LL * n * c * s);
    }
};

}  // namespace pk::test
