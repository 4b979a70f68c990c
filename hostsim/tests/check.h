// What the ctest executables share: checks that count, buffers of exact size, reproducible data.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/platform.cuh"

namespace pk::test {

inline int checks = 0, failures = 0;

template <class... Parts>
void report(const char* file, int line, const Parts&... parts) {
    if (++failures > 20) return;
    std::ostringstream text;
    (text << ... << parts);
    std::fprintf(stderr, "%s:%d: %s\n", file, line, text.str().c_str());
}

/// What main returns.
inline int finish() {
    std::printf("%d checks, %d failed\n", checks, failures);
    return failures || !checks ? EXIT_FAILURE : EXIT_SUCCESS;
}

/// The same on every machine, unlike the distributions of <random>.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 2 + 1) {}
    uint32_t bits() {
        state_ = state_ * 6364136223846793005 + 1442695040888963407;
        return static_cast<uint32_t>(state_ >> 33) * 2654435761u;
    }
    int integer(int first, int last) {
        return first + static_cast<int>(bits() % static_cast<uint32_t>(last - first + 1));
    }
    double uniform(double low, double high) { return low + (high - low) * bits() * 0x1p-32; }

  private:
    uint64_t state_;
};

/// `count` elements on the heap, of which a sanitizer sees the exact end; all NaN at first.
template <class T>
class Buffer {
  public:
    explicit Buffer(size_t count) : count_(count), memory_(static_cast<T*>(std::malloc(count * sizeof(T)))) {
        std::memset(static_cast<void*>(memory_), 0xFF, count * sizeof(T));
    }
    ~Buffer() { std::free(memory_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    T* data() { return memory_; }
    const T* data() const { return memory_; }
    size_t size() const { return count_; }
    T& operator[](size_t i) { return memory_[i]; }
    const T& operator[](size_t i) const { return memory_[i]; }

    /// Uniform numbers in [low, high), rounded to T.
    void fill(Random& random, double low = -1, double high = 1) {
        for (size_t i = 0; i < count_; ++i) data()[i] = static_cast<T>(random.uniform(low, high));
    }
    /// Integers, whose sums are exact in every T while they stay small.
    void fill_integers(Random& random, int low = -4, int high = 4) {
        for (size_t i = 0; i < count_; ++i) data()[i] = static_cast<T>(random.integer(low, high));
    }

  private:
    size_t count_;
    T* memory_;
};

template <class T>
constexpr Dtype dtype_of() {
    if constexpr (std::is_same_v<T, half>) return Dtype::f16;
    if constexpr (std::is_same_v<T, bf16>) return Dtype::bf16;
    if constexpr (std::is_same_v<T, double>) return Dtype::f64;
    return Dtype::f32;
}

/// a (rows, depth) times b (columns, depth) transposed; `transposed`: both lie the other way round.
template <class T>
std::vector<double> product(const Buffer<T>& a, const Buffer<T>& b, int rows, int columns, bool transposed = false) {
    const int depth = static_cast<int>(a.size()) / rows;
    const auto at = [&](const Buffer<T>& x, int size, int i, int k) {
        return static_cast<double>(x[transposed ? k * size + i : i * depth + k]);
    };
    std::vector<double> d(rows * columns);
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < columns; ++j)
            for (int k = 0; k < depth; ++k) d[i * columns + j] += at(a, rows, i, k) * at(b, columns, j, k);
    return d;
}

/// A NaN equals a NaN.
inline bool is_equal(double got, double want) { return got == want || (std::isnan(want) && std::isnan(got)); }

/// Check `got` against the reference, element by element; the line names the first that differs and how many do.
template <class T, class Want>
void check_equal(const char* file, int line, const std::string& what, const T& got, const Want& want) {
    ++checks;
    if (got.size() != want.size()) return report(file, line, what, ": ", got.size(), " elements, not ", want.size());
    size_t wrong = 0, first = 0;
    for (size_t i = got.size(); i-- > 0;) {
        if (is_equal(static_cast<double>(got[i]), static_cast<double>(want[i]))) continue;
        ++wrong;
        first = i;
    }
    if (wrong)
        report(file, line, what, ": ", wrong, " of ", got.size(), " differ, first [", first,
               "]: ", static_cast<double>(got[first]), " instead of ", static_cast<double>(want[first]));
}

}  // namespace pk::test

/// Count a failure, described by the further arguments, unless the condition holds.
#define CHECK(condition, ...)                                                                               \
    do {                                                                                                    \
        ++pk::test::checks;                                                                                 \
        if (!(condition)) pk::test::report(__FILE__, __LINE__, #condition ": " __VA_OPT__(, ) __VA_ARGS__); \
    } while (0)

/// Count a failure unless `call` returns an ok status.
#define CHECK_OK(call)                                                       \
    do {                                                                     \
        ++pk::test::checks;                                                  \
        if (const pk::Status status_ = (call); !status_.ok())                \
            pk::test::report(__FILE__, __LINE__, #call ": ", status_.error); \
    } while (0)

#define CHECK_EQUAL(what, got, want) pk::test::check_equal(__FILE__, __LINE__, what, got, want)
