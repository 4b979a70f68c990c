// The one way a kernel is launched: on a device and stream of the caller's, counted, and with an error that says what
// ran.
#pragma once

#include <mutex>
#include <set>
#include <utility>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/observe.h"
#include "common/platform.cuh"
#include "common/queue.h"

namespace pk {

struct Shape {
    dim3 grid;
    dim3 block;
    size_t shared = 0;         // bytes of dynamic shared memory
    dim3 cluster = {1, 1, 1};  // blocks per cluster
    bool early = false;        // may begin before the launch ahead ends: the kernel waits for earlier grids itself
};

/// Drivers before CUDA 12.1 take no more, and a core built by 12.5 runs on them.
inline constexpr size_t most_parameter_bytes = 4096;

/// The bytes of a kernel's parameters, laid out as a struct's members are.
template <class... Params>
constexpr size_t parameter_bytes() {
    size_t bytes = 0;
    ((bytes = (bytes + alignof(Params) - 1) / alignof(Params) * alignof(Params) + sizeof(Params)), ...);
    return bytes;
}

/// Does something once for each kernel and device, whichever thread comes first; what failed is tried again.
class OncePerKernel {
  public:
    /// `body()` returns whether it worked.
    template <class Body>
    void operator()(const void* kernel, int device, Body&& body) {
        std::lock_guard lock(mutex_);
        if (!done_.contains({kernel, device}) && body()) done_.emplace(kernel, device);
    }

  private:
    std::mutex mutex_;
    std::set<std::pair<const void*, int>> done_;
};

#if defined(__CUDACC__)

Status cuda_failure(const char* what, cudaError_t error, int device);

/// Let a kernel ask for all the shared memory that a block of the current device may have.
cudaError_t opt_in(const void* kernel, int device);

/// Makes `device` current and its context this thread's, without which the driver's own functions fail: a thread has
/// none before its first launch. The device before it is current again at the end.
class DeviceGuard {
  public:
    explicit DeviceGuard(int device) : device_(device), error_(cudaGetDevice(&before_)) {
        if (error_ == cudaSuccess) error_ = cudaSetDevice(device);
    }
    ~DeviceGuard() {
        if (error_ == cudaSuccess && before_ != device_) cudaSetDevice(before_);
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;
    Status status(const char* what) const {
        return error_ == cudaSuccess ? Status{} : cuda_failure(what, error_, device_);
    }

  private:
    int device_, before_ = 0;
    cudaError_t error_;
};

#else

/// Gives this thread a context while it lasts.
class DeviceGuard {
  public:
    explicit DeviceGuard(int) : before_(std::exchange(hostsim::has_context, true)) {}
    ~DeviceGuard() { hostsim::has_context = before_; }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;
    Status status(const char*) const { return {}; }

  private:
    bool before_;
};

#endif

/// Launch `kernel(args...)`; an empty grid launches nothing.
template <class... Params, class... Args>
Status launch(const char* name, Dtype dtype, void (*kernel)(Params...), const Shape& shape, Queue queue,
              Args&&... args) {
    static_assert(parameter_bytes<Params...>() <= most_parameter_bytes, "a kernel's parameters pass 4,096 bytes");
    if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return {};
    launch_log.add(name, dtype);
    const DeviceGuard guard(queue.device);
    PK_TRY(guard.status(name));
#if defined(__CUDACC__)
    const void* function = reinterpret_cast<const void*>(kernel);
    cudaError_t error = cudaSuccess;
    if (shape.shared > 47 * 1024) error = opt_in(function, queue.device);  // 48 with what is static beside it
    cudaLaunchAttribute attributes[2];
    unsigned count = 0;
    if (shape.cluster.x * shape.cluster.y * shape.cluster.z > 1) {
        attributes[count].id = cudaLaunchAttributeClusterDimension;
        attributes[count++].val.clusterDim = {shape.cluster.x, shape.cluster.y, shape.cluster.z};
    }
    if (shape.early) {
        attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[count++].val.programmaticStreamSerializationAllowed = 1;
    }
    const cudaLaunchConfig_t config{shape.grid, shape.block, shape.shared, static_cast<cudaStream_t>(queue.stream),
                                    attributes, count};
    const auto start = [&](const Params&... exact) {  // the caller's own where the types are the kernel's: no copy
        void* pointers[] = {const_cast<void*>(static_cast<const void*>(&exact))...};
        return cudaLaunchKernelExC(&config, function, pointers);
    };
    if (error == cudaSuccess) error = start(args...);
    if (error == cudaSuccess) return {};
    (void)cudaGetLastError();  // or the next launch would report this one's error
    return fail(cuda_failure(name, error, queue.device).error, "; grid (", shape.grid.x, ", ", shape.grid.y, ", ",
                shape.grid.z, "), block ", shape.block.x * shape.block.y * shape.block.z, ", shared ", shape.shared,
                " bytes");
#else
    // Parameters are in no memory of a device's: reading them is no access that an instrumented build should hear of.
    const auto body = [kernel, ... copies = args]() __attribute__((no_sanitize("thread"))) { kernel(copies...); };
    const void* code = reinterpret_cast<const void*>(kernel);
    return {hostsim::run({name, code, shape.grid, shape.block, shape.cluster, shape.shared, shape.early, body})};
#endif
}

}  // namespace pk
