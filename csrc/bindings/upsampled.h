// Logits, and the size at which a map of labels or losses sees them.
#pragma once

#include "bindings/call.h"
#include "common/upsampled.h"

namespace pk::bindings {

/// `map`: (n, rows, cols), called `name`.
inline UpsampledProblem upsampled(const TensorRef& logits, const char* name, const TensorRef& map, bool align_corners) {
    UpsampledProblem p{};
    take_map("logits", logits, p);
    expect(name, map, {p.n, map.size[1], map.size[2]});
    p.dtype = dtype_of("logits", logits), p.data = logits.data, p.align_corners = align_corners;
    p.rows = static_cast<int>(map.size[1]), p.cols = static_cast<int>(map.size[2]);
    return p;
}

}  // namespace pk::bindings
