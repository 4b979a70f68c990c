// The one way a kernel is launched: on a device and stream of the caller's, counted, and with an error that says what
// ran.
#pragma once

#include <tuple>

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

#if defined(__CUDACC__)

Status cuda_failure(const char* what, cudaError_t error, int device);

/// Makes `device` current, and the one before it again at the end.
class DeviceGuard {
  public:
    explicit DeviceGuard(int device) : error_(cudaGetDevice(&before_)) {
        if (error_ == cudaSuccess && before_ != device) error_ = cudaSetDevice(device);
        changed_ = error_ == cudaSuccess && before_ != device;
    }
    ~DeviceGuard() {
        if (changed_) cudaSetDevice(before_);
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;
    cudaError_t error() const { return error_; }

  private:
    int before_ = 0;
    bool changed_ = false;
    cudaError_t error_;
};

#endif

/// Launch `kernel(args...)`; an empty grid launches nothing.
template <class... Params, class... Args>
Status launch(const char* name, Dtype dtype, void (*kernel)(Params...), const Shape& shape, Queue queue, Args... args) {
    if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return {};
    launch_log.add(name, dtype);
#if defined(__CUDACC__)
    DeviceGuard guard(queue.device);
    if (guard.error() != cudaSuccess) return cuda_failure(name, guard.error(), queue.device);
    const void* function = reinterpret_cast<const void*>(kernel);
    cudaError_t error = cudaSuccess;
    if (shape.shared > 47 * 1024)  // 48 with what is static beside it
        error =
            cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared));
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
    std::tuple<Params...> exact(args...);
    if (error == cudaSuccess)
        error = std::apply(
            [&](Params&... p) {
                void* pointers[] = {&p...};
                return cudaLaunchKernelExC(&config, function, pointers);
            },
            exact);
    if (error == cudaSuccess) return {};
    (void)cudaGetLastError();  // or the next launch would report this one's error
    return fail(cuda_failure(name, error, queue.device).error, "; grid (", shape.grid.x, ", ", shape.grid.y, ", ",
                shape.grid.z, "), block ", shape.block.x * shape.block.y * shape.block.z, ", shared ", shape.shared,
                " bytes");
#else
    (void)queue;
    const std::string error =
        hostsim::run(name, shape.grid, shape.block, shape.cluster, shape.shared, [&] { kernel(args...); });
    return {error};
#endif
}

}  // namespace pk
