// upsample_cross_entropy: the loss of resized logits and its gradient, without logits of that size. Free of CUDA.
#pragma once

#include "common/labels.h"
#include "common/queue.h"
#include "common/upsampled.h"

namespace pk {

/// What forward and backward are told. "Accumulators" are float, double for double.
struct UpsampleCrossEntropyProblem {
    UpsampledProblem logits;
    const void* target;  // (n, rows, cols)
    LabelType type;      // of target
    int64_t ignore;      // the label that does not count
    const void* weight;  // (c,) of accumulators, or null
    double smoothing;    // 0 to 1
};

struct UpsampleCrossEntropyFwdParams {
    UpsampleCrossEntropyProblem problem;
    void* y;     // (n, rows, cols) of accumulators, or null where sums are asked for
    void* lse;   // (n, rows, cols) of accumulators: the logarithm of what softmax divides by
    void* part;  // (2, parts) of accumulators, sums of losses and of weights; or null
};

/// How many `parts` the forward writes; negative where it would refuse the problem.
int upsample_cross_entropy_parts(const UpsampledProblem& logits);

struct UpsampleCrossEntropySumsParams {
    Dtype dtype;  // of the logits
    int parts;
    bool mean;
    const void* part;  // (2, parts)
    void* y;           // ()
    void* factor;      // (1,): what one pixel's loss counts in y
};

struct UpsampleCrossEntropyBwdParams {
    UpsampleCrossEntropyProblem problem;
    const void* dy;      // (n, rows, cols) of accumulators, or () where factor is given
    const void* factor;  // (1,) or null
    const void* lse;     // (n, rows, cols)
    void* dlogits;       // (n, c, h, w)
    int64_t strides[4];  // of dlogits
};

Status launch_upsample_cross_entropy_fwd(const UpsampleCrossEntropyFwdParams& params, Queue queue);
Status launch_upsample_cross_entropy_sums(const UpsampleCrossEntropySumsParams& params, Queue queue);
Status launch_upsample_cross_entropy_bwd_dlogits(const UpsampleCrossEntropyBwdParams& params, Queue queue);

}  // namespace pk
