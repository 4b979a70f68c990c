// Errors of the CUDA runtime in one line: what was launched, what was built, what was found.
#include "common/launch.cuh"

namespace pk {

#if defined(__CUDACC__)

const char* architectures() { return PK_CUDA_ARCHS; }

Status cuda_failure(const char* what, cudaError_t error, int device) {
    std::ostringstream found;
    int count = 0, major = 0, minor = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        found << "no usable CUDA driver";
    } else if (device >= count) {
        found << "no device " << device << " among " << count;
    } else {
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
        found << "device " << device << " of compute capability " << major << '.' << minor;
    }
    (void)cudaGetLastError();
    return fail(what, ": ", cudaGetErrorString(error), " (", cudaGetErrorName(error), "); built for ", architectures(),
                " with CUDA ", CUDART_VERSION / 1000, '.', CUDART_VERSION % 1000 / 10, ", found ", found.str());
}

cudaError_t opt_in(const void* kernel, int device) {
    static OncePerKernel once;
    cudaError_t error = cudaSuccess;
    once(kernel, device, [&] {
        int most = 0;
        cudaFuncAttributes own;
        error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
        if (error == cudaSuccess) error = cudaFuncGetAttributes(&own, kernel);
        if (error == cudaSuccess)
            error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         most - static_cast<int>(own.sharedSizeBytes));
        return error == cudaSuccess;
    });
    return error;
}

#else

const char* architectures() { return "host simulator"; }

#endif

}  // namespace pk
