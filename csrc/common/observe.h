// What a caller may ask of the library: which kernels it launched, and for which GPUs it was built. Free of CUDA.
#pragma once

#include <atomic>
#include <mutex>
#include <utility>
#include <vector>

#include "common/dispatch.h"

namespace pk {

/// Names of kernels as they are launched, for tests; off unless someone listens. Backward passes launch from other
/// threads.
class LaunchLog {
  public:
    using Entry = std::pair<const char*, Dtype>;
    void listen(bool on) { listening_ = on; }
    void add(const char* kernel, Dtype dtype) {
        if (!listening_) return;
        std::lock_guard lock(mutex_);
        entries_.emplace_back(kernel, dtype);
    }
    std::vector<Entry> take() {
        std::lock_guard lock(mutex_);
        return std::exchange(entries_, {});
    }

  private:
    std::atomic<bool> listening_ = false;
    std::mutex mutex_;
    std::vector<Entry> entries_;
};

inline LaunchLog launch_log;

/// The architectures compiled for, as CMake spells them ("80-real 90a-real"), or "host simulator".
const char* architectures();

}  // namespace pk
