// What g++ sees instead of CUDA: the language's words, its built-in variables and functions, and run(), which executes
// a kernel with every thread a fiber. See docs/hostsim.md.
#pragma once

// Before the words below, which standard headers must not meet.
#include <cstddef>
#include <functional>
#include <string>

#include "hostsim/intrinsics.h"
#include "hostsim/sync.h"
#include "hostsim/types.h"

#define __global__ inline
#define __device__
#define __host__
#if defined(HOSTSIM_PROFILE)  // whose callbacks do not see what a function takes by value, unless it is inlined
#define __forceinline__ inline __attribute__((always_inline))
#else
#define __forceinline__ inline
#endif
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static thread_local

// Those of the running thread; the scheduler rewrites them at every switch.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

namespace hostsim {

/// Whether this thread could call the driver.
inline thread_local bool has_context = false;

inline unsigned char* dynamic_base = nullptr;
/// The running block's dynamic shared memory.
inline unsigned char* dynamic_shared() { return dynamic_base; }

struct Launch {
    const char* name;
    const void* kernel;
    dim3 grid, block, cluster;
    size_t shared;
    bool early;                  // its threads must wait for earlier grids before they touch global memory
    std::function<void()> body;  // calls the kernel for one thread
};

/// Execute a launch for every thread of the grid. Returns nothing, or one line that says what went wrong and where.
std::string run(Launch launch);

/// Keep launches from here on, parameters and all, as a captured graph does.
void capture();
/// Execute them again, in order, and keep no more.
std::string replay();

/// End the launch: run() returns what the running thread says.
[[noreturn]] void stop(const std::string& message);

/// What decides, with a launch's name and grid, the order of its threads; at first PYRAMID_KERNELS_HOSTSIM_SEED, or 0.
void set_seed(uint64_t seed);

}  // namespace hostsim
