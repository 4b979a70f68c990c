// channel_gate: a map times a gate per channel, which one or two small products make of its means. Free of CUDA.
// Strides are in elements. float16, bfloat16 and float32 accumulate in float, double in double: "wide" below.
#pragma once

#include <cstdint>

#include "common/dispatch.h"
#include "common/norm.h"
#include "common/queue.h"

namespace pk {

/// C + K up to which one image's means and hidden values fit in a block's shared memory.
inline constexpr int channel_gate_widest = 8192;

enum class HiddenActivation { none, relu, silu };

/// A weight, or its gradient, as a matrix.
struct ChannelGateWeight {
    void* at;  // null where there is no second one
    std::int64_t rows, columns;
};

/// What every launch is told. K is C where there is one convolution.
struct ChannelGateProblem {
    Dtype dtype;
    int n, c, h, w, k;
    bool channels_last;  // y, dy and dx, which are dense, and about how x lies
    HiddenActivation activation;
    bool hard, residual;                 // hard: the gate is a hard sigmoid
    int parts;                           // shares of an image's pixels that are summed side by side
    ChannelGateWeight weight1, weight2;  // (K, C), (C, K)
    ChannelVector bias1, bias2;          // (K,), (C,)
    Norm norm1;                          // (K,) each
    const void* x;                       // (N, C, H, W)
    std::int64_t strides[4];             // of x
    void* part;                          // (N, parts, C) wide, written and read by one direction
};

struct ChannelGateFwdParams {
    ChannelGateProblem problem;
    void *mean, *hidden, *gate;  // (N, C), (N, K), (N, C) wide, kept for the backward
    void* y;                     // (N, C, H, W)
};

struct ChannelGateBwdParams {
    ChannelGateProblem problem;
    const void *mean, *hidden, *gate;
    const void* dy;                        // (N, C, H, W)
    void *dz, *dhidden, *dmean;            // (N, C), (N, K), (N, C) wide, written before they are read
    void* dx;                              // (N, C, H, W), or null
    ChannelGateWeight dweight1, dweight2;  // or null
    void* dvectors;                        // wide: dbias1, dgain1, dshift1 and, with a weight2, dbias2; or null
};

Status launch_channel_gate_fwd(const ChannelGateFwdParams& params, Queue queue);
Status launch_channel_gate_bwd(const ChannelGateBwdParams& params, Queue queue);

}  // namespace pk
