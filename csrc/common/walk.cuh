// Walks over places in row-major order without a division per step.
#pragma once

#include "common/platform.cuh"

namespace pk {

/// Every `stride`-th place of a rectangle.
struct Walk {
    int y, x, width, step_y, step_x;

    Walk() = default;
    __device__ Walk(int first, int stride, int width_)
        : y(first / width_), x(first % width_), width(width_), step_y(stride / width_), step_x(stride % width_) {}
    __device__ __forceinline__ void next() {
        y += step_y, x += step_x;
        if (x >= width) x -= width, ++y;
    }
};

/// Every `stride`-th place of a box.
struct BoxWalk {
    Walk in;  // a layer of the box
    int z, height, step_z;

    __device__ BoxWalk(int first, int stride, int width, int height_)
        : in(first, stride, width), z(in.y / height_), height(height_), step_z(in.step_y / height_) {
        in.y %= height, in.step_y %= height;
    }
    __device__ __forceinline__ void next() {
        in.next(), z += step_z;
        if (in.y >= height) in.y -= height, ++z;
    }
};

}  // namespace pk
