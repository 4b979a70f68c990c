// What the kernels of pyramid_project share: a block's level, the indices of its matrices, its vectors.
#pragma once

#include "common/gemm_tile.cuh"
#include "common/norm.cuh"
#include "pyramid_project/pyramid_project.h"

namespace pk {

/// The level whose blocks hold this one; blocks of all levels stand in one row.
__device__ __forceinline__ int level_of_block(const ProjectPyramid& pyramid) {
    int l = 0;
    while (l + 1 < pyramid.levels && static_cast<int>(blockIdx.x) >= pyramid.level[l + 1].first_block) ++l;
    return l;
}

/// Columns of a level's cells over all images as one index: row (image, cell).
__device__ __forceinline__ Dim rows_of(int n, int cells, long long image_step, long long cell_step) {
    return {n * cells, cells, image_step, cell_step};
}

/// A level's weight seen as lines of depth: its output channels of input channels, or the reverse.
template <class T>
__device__ __forceinline__ Operand<T> weight_by_output(const ProjectLevel& level, int c) {
    return {static_cast<const T*>(level.weight), Dim::plain(level.channels, level.w_o), Dim::plain(c, level.w_c)};
}
template <class T>
__device__ __forceinline__ Operand<T> weight_by_input(const ProjectLevel& level, int c) {
    return {static_cast<const T*>(level.weight), Dim::plain(c, level.w_c), Dim::plain(level.channels, level.w_o)};
}

}  // namespace pk
