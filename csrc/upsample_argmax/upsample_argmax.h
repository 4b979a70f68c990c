// upsample_argmax: the largest class of every pixel of resized logits. Free of CUDA.
#pragma once

#include "common/labels.h"
#include "common/queue.h"
#include "common/upsampled.h"

namespace pk {

struct UpsampleArgmaxParams {
    UpsampledProblem logits;
    LabelType type;  // holds c - 1
    void* labels;    // (n, rows, cols)
};

Status launch_upsample_argmax_fwd(const UpsampleArgmaxParams& params, Queue queue);

}  // namespace pk
