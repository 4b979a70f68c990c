// Axis against the definitions of the windowings, for every size and bin to 70.
#include "tests/windows.h"

#include "tests/check.h"

using namespace pk;

void check_axis(int bins, int size, Windows windows) {
    const std::vector<test::Window> defined = test::defined_windows(bins, size, windows);
    Axis axis{};
    const Status status = axis_windows(bins, size, windows, axis);
    CHECK(status.ok() == !defined.empty(), "bins ", bins, " size ", size, ": ", status.error);
    if (!status.ok() || defined.empty()) return;
    CHECK(axis.count == static_cast<int>(defined.size()), "bins ", bins, " size ", size, ": ", axis.count);
    int wrong = 0;
    for (int i = 0; i < axis.count; ++i) {
        const test::Window& window = defined[i];
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
