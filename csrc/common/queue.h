// Where a launch goes.
#pragma once

namespace pk {

struct Queue {
    int device = 0;          // CUDA device ordinal
    void* stream = nullptr;  // cudaStream_t
};

}  // namespace pk
