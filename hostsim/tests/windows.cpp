// Axis against the definitions of the windowings, for every size and bin to 70.
#include "common/windows.h"

#include <algorithm>

#include "hostsim/tests/check.h"

using namespace pk;

struct Window {
    int64_t start, end, length;  // length: what an average divides by
};

/// The windows of `bins` along an axis of `size` as PyTorch's documentation defines them, apart from the kernels'
/// formula; none where the windowing does not exist.
std::vector<Window> defined_windows(int64_t bins, int64_t size, Windows windows) {
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

void check_axis(int bins, int size, Windows windows) {
    const std::vector<Window> defined = defined_windows(bins, size, windows);
    Axis axis{};
    const Status status = axis_windows(bins, size, windows, axis);
    CHECK(status.ok() == !defined.empty(), "bins ", bins, " size ", size, ": ", status.error);
    if (!status.ok() || defined.empty()) return;
    CHECK(axis.count == static_cast<int>(defined.size()), "bins ", bins, " size ", size, ": ", axis.count);
    int wrong = 0;
    for (int i = 0; i < axis.count; ++i) {
        const Window& window = defined[i];
        wrong += axis.start(i) != window.start || axis.end(i) != window.end || axis.length(i) != window.length;
    }
    for (int p = 0; p < size; ++p) {
        int first = 0, last = axis.count - 1;
        while (first <= last && defined[first].end <= p) ++first;
        while (last >= first && defined[last].start > p) --last;
        const bool none = axis.first(p) > axis.last(p);
        wrong += first > last ? !none : axis.first(p) != first || axis.last(p) != last;
    }
    CHECK(wrong == 0, "bins ", bins, " size ", size, " windows ", static_cast<int>(windows), ": ", wrong, " wrong");
}

int main() {
    for (int size = 1; size <= 70; ++size)
        for (int bins = 1; bins <= 70; ++bins)
            for (Windows windows : {Windows::adaptive, Windows::fixed, Windows::ceil}) check_axis(bins, size, windows);
    Axis axis{};
    for (int bins : {-1, 0, 1 << 20}) CHECK(!axis_windows(bins, 1 << 20, Windows::adaptive, axis).ok(), bins);
    return test::finish();
}
