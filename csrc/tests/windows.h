// Pooling windows as PyTorch's documentation defines them, in 64-bit integers, apart from the kernels' formula.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/windows.h"

namespace pk::test {

struct Window {
    int64_t start, end, length;  // length: what an average divides by
};

/// The windows of `bins` along an axis of `size`; none where the windowing does not exist.
inline std::vector<Window> defined_windows(int64_t bins, int64_t size, Windows windows) {
    std::vector<Window> found;
    if (windows == Windows::adaptive) {
        for (int64_t i = 0; i < bins; ++i) {
            const int64_t start = i * size / bins, end = ((i + 1) * size + bins - 1) / bins;
            found.push_back({start, end, end - start});
        }
    } else if (windows == Windows::fixed) {
        const int64_t kernel = size / bins;
        for (int64_t start = 0; kernel && start + kernel <= size; start += kernel)
            found.push_back({start, start + kernel, kernel});
    } else {
        const int64_t kernel = (size + bins - 1) / bins, padding = (kernel * bins - size + 1) / 2;
        if (padding > kernel / 2) return {};
        for (int64_t start = -padding; start + kernel <= size + padding; start += kernel)
            found.push_back({std::max<int64_t>(start, 0), std::min(start + kernel, size), kernel});
    }
    return found;
}

}  // namespace pk::test
