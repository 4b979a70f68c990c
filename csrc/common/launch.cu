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

#else

const char* architectures() { return "host simulator"; }

#endif

}  // namespace pk
