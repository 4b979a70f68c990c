// How Python names a map and the size at which it is seen.
#pragma once

#include "bindings/arguments.h"
#include "common/upsampled.h"

namespace pk::bindings {

/// map: address, n, c, h, w and four strides; size: rows, cols.
inline UpsampledProblem upsampled(int dtype, const Ints& map, const Ints& size, bool align_corners) {
    return {dtype_of(dtype),
            at(static_cast<Address>(map.at(0))),
            static_cast<int>(map.at(1)),
            static_cast<int>(map.at(2)),
            static_cast<int>(map.at(3)),
            static_cast<int>(map.at(4)),
            {map.at(5), map.at(6), map.at(7), map.at(8)},
            static_cast<int>(size.at(0)),
            static_cast<int>(size.at(1)),
            align_corners};
}

}  // namespace pk::bindings
