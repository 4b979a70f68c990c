// Per-channel vectors beside a map: an eval-mode norm, or a plain affine where mean and var are absent.
#pragma once

namespace pk {

/// A vector [O] in float or, where `is_t`, in the dtype of the call; null where absent.
struct ChannelVector {
    const void* at;
    bool is_t;
};

/// y = (z - mean) / sqrt(var + eps) * gain + bias.
struct Norm {
    ChannelVector gain, bias, mean, var;  // [O] each
    double eps;
};

}  // namespace pk
