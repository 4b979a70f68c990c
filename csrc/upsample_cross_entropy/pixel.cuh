// What forward and backward know of one output pixel: its label, whether it counts, its class's weight.
#pragma once

#include "common/labels.cuh"
#include "common/ptx/exp2.cuh"
#include "common/upsampled.cuh"

namespace pk::upsample_cross_entropy {

template <class A>
struct Loss {
    Upsampled logits;
    const void* target;  // (n, rows, cols)
    LabelType type;
    int64_t ignore;
    const A* weight;  // (c,) or null
    A hit, smooth;    // what the label's own class counts, and what each class counts
};

template <class A>
struct Pixel {
    int64_t label;
    bool live;
    A share;  // 0 where ignored
};

template <class A>
__device__ __forceinline__ Pixel<A> pixel_at(const Loss<A>& p, long long i) {
    const int64_t label = load_label(p.target, p.type, i);
    const bool live = label != p.ignore, known = live && 0 <= label && label < p.logits.c;
    return {label, live, !known ? A(0) : p.weight != nullptr ? p.weight[label] : A(1)};
}

/// The sum of all classes' weights, in order.
template <class A>
__device__ __forceinline__ A whole(const Loss<A>& p) {
    A sum = p.weight != nullptr ? A(0) : static_cast<A>(p.logits.c);
    for (int c = 0; p.weight != nullptr && c < p.logits.c; ++c) sum += p.weight[c];
    return sum;
}

// At most two roundings off from -1 to 0, four to -3, nine to -10: the smaller the probability, the more. Below 2^-126
// it is zero.
__device__ __forceinline__ float exponential(float v) { return exp2_approx(v * 1.44269504088896341f); }
__device__ __forceinline__ double exponential(double v) { return exp(v); }

}  // namespace pk::upsample_cross_entropy
