// A ring of stages in shared memory that is filled ahead of its use.
#pragma once

#include "common/ptx/cp_async.cuh"

namespace pk {

/// For every step in [begin, end): copy(step, stage) starts `stages` - 1 steps, two or four, ahead of multiply(stage).
/// All threads of the block take part in both; at the end the whole ring is free.
template <class Copy, class Multiply>
__device__ __forceinline__ void pipelined(int stages, int begin, int end, Copy&& copy, Multiply&& multiply) {
    const auto ahead = [&](int step) {
        if (step < end) copy(step, (step - begin) & (stages - 1));
        cp_async_commit();  // also where nothing was copied, so that groups and steps count alike
    };
    for (int step = begin; step < begin + stages - 1; ++step) ahead(step);
    for (int step = begin; step < end; ++step) {
        stages == 4 ? cp_async_wait<2>() : cp_async_wait<0>();
        __syncthreads();  // this step has arrived for all, and nobody reads the stage before it any more
        ahead(step + stages - 1);
        multiply((step - begin) & (stages - 1));
    }
    cp_async_wait<0>();
    __syncthreads();
}

}  // namespace pk
