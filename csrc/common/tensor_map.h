// Descriptions of tensors for the bulk copy engine (sm_90): made on the host, passed to a kernel by value as
// `const __grid_constant__ TensorMap`.
#pragma once

#include <cstdint>

#include "common/check.h"
#include "common/dispatch.h"

namespace pk {

struct alignas(64) TensorMap {
    uint64_t opaque[16];
};

/// How a box lies in shared memory: the 16-byte chunks of each row of this many bytes exchanged by the row's number.
enum class Swizzle : int { none = 16, b32 = 32, b64 = 64, b128 = 128 };

/// A tensor and the box of it that one instruction copies. Dimension 0 is contiguous; lengths in elements.
struct TensorBox {
    const void* pointer;  // 16-byte aligned
    Dtype dtype;
    int rank;           // 2 to 5
    int64_t size[5];    // of the tensor
    int64_t stride[5];  // elements between neighbours; stride[0] is 1
    int box[5];         // at most 256 each; a swizzled row is as long as its swizzle
    Swizzle swizzle;
};

/// Encode `box`, or say which of the hardware's limits it passes. Under a DeviceGuard: the driver needs a context.
Status encode_tensor_map(const TensorBox& box, TensorMap& map);

}  // namespace pk
