// Backward of pyramid_project: the gradient before the epilogue, then one grouped GEMM per operand.
#pragma once

#include "pyramid_project/pyramid_project_level.cuh"

namespace pk {

/// The block of bwd_dz: channels across, and rows that are summed side by side.
struct DzBlock {
    static constexpr int CHANNELS = 16, SLOTS = 16, THREADS = CHANNELS * SLOTS;
};

// dz = dy * mask * gain / deviation, and the sums dgain and dbias.
// Owns: a block owns all rows (image, cell) of 16 channels of one level; a thread every 16th row of one channel. The
// 16 sums of a channel are added in order. They may cancel and are few: double costs nothing here.
// Grid: for each level its blocks of channels. Shared bytes: 4,352. Bound: bytes, of which there are few.
template <class T>
__global__ void __launch_bounds__(DzBlock::THREADS)
    pyramid_project_bwd_dz_kernel(const __grid_constant__ PyramidProjectBwdDzParams p) {
    constexpr int CHANNELS = DzBlock::CHANNELS, SLOTS = DzBlock::SLOTS;
    __shared__ double s_dgain[CHANNELS][SLOTS + 1];
    __shared__ double s_dbias[CHANNELS][SLOTS + 1];
    const ProjectPyramid& pyramid = p.pyramid;
    const ProjectLevel& level = pyramid.level[level_of_block(pyramid)];
    const int thread = threadIdx.x;
    const bool channels_inside = p.dy_c <= p.dy_s;  // neighbours in memory are read by neighbouring threads
    const int channel = channels_inside ? thread % CHANNELS : thread / SLOTS;
    const int slot = channels_inside ? thread / CHANNELS : thread % SLOTS;
    const int o = (blockIdx.x - level.first_block) * CHANNELS + channel;

    double dgain = 0, dbias = 0;
    if (o < level.channels) {
        const Acc<T> gain = vector_or<T>(level.norm.gain, o, 1), mean = vector_or<T>(level.norm.mean, o, 0);
        const Acc<T> inverse = inverse_deviation<T>(level.norm, o);
        const long long here = (level.first_channel + o) * p.dy_c, saved = (level.first_channel + o) * p.y_c;
        for (int row = slot; row < pyramid.n * pyramid.full; row += SLOTS) {
            const long long image = row / pyramid.full, cell = row % pyramid.full;
            const long long at = here + image * p.dy_n + cell * p.dy_s, y_at = saved + image * p.y_n + cell * p.y_s;
            Acc<T> dy = 0;
            if (cell < level.cells) {
                dy = widen(static_cast<const T*>(p.dy)[at]);
                if (p.y && widen(static_cast<const T*>(p.y)[y_at]) <= 0) dy = 0;
                if (p.z) dgain += dy * (widen(static_cast<const T*>(p.z)[y_at]) - mean) * inverse;
            }
            dbias += dy;
            static_cast<T*>(p.dz)[at] = narrow<T>(dy * gain * inverse);
        }
    }
    s_dgain[channel][slot] = dgain;
    s_dbias[channel][slot] = dbias;
    __syncthreads();
    const int last = (blockIdx.x - level.first_block) * CHANNELS + thread;
    if (thread >= CHANNELS || last >= level.channels) return;
    dgain = dbias = 0;
    for (int i = 0; i < SLOTS; ++i) {
        dgain += s_dgain[thread][i];
        dbias += s_dbias[thread][i];
    }
    Acc<T>* g_sums = static_cast<Acc<T>*>(p.sums) + level.first_channel + last;
    g_sums[0] = static_cast<Acc<T>>(dgain);
    g_sums[p.sums_row] = static_cast<Acc<T>>(dbias);
}

// Owns: a block owns 64 rows (image, cell) of one level and 32 input channels; depth is the level's O.
// Grid: for each level its tiles, input channels first. Shared bytes: GemmTile::SHARED.
// Bound: reading dz and the weights, once per 32 channels and once per 64 rows.
template <class G>
__global__ void __launch_bounds__(G::THREADS)
    pyramid_project_bwd_dpooled_kernel(const __grid_constant__ PyramidProjectBwdDpooledParams p) {
    using T = typename G::T;
    const ProjectPyramid& pyramid = p.pyramid;
    const ProjectLevel& level = pyramid.level[level_of_block(pyramid)];
    const int block = blockIdx.x - level.first_block, c_blocks = ceil_div(pyramid.c, G::COLS);
    const int row0 = block / c_blocks * G::ROWS, c0 = block % c_blocks * G::COLS;

    const T* g_dz = static_cast<const T*>(p.dz) + level.first_channel * p.dz_c;
    const Operand<T> dz{g_dz, rows_of(pyramid.n, level.cells, p.dz_n, p.dz_s), Dim::plain(level.channels, p.dz_c)};
    Acc<T> r_acc[G::Product::COUNT];
    multiply_tile<G>(dz, row0, weight_by_input<T>(level, pyramid.c), c0, shared_memory<T>(), r_acc);

    const Dim out = rows_of(pyramid.n, level.cells, p.x_n, p.x_s);
    T* g_dx = static_cast<T*>(p.dpooled) + level.first_cell * p.x_s;
    for_each_product<G>(r_acc, shared_memory<Acc<T>>(), p.x_s < p.x_c, [&](int row, int col, const auto& r) {
        const int c = c0 + col, count = pyramid.c - c;
        if (row0 + row < out.count && count > 0)
            store_rounded(g_dx + out.at(row0 + row) + c * p.x_c, r.at, count, p.x_c);
    });
}

// Owns: a block owns 64 output and 32 input channels of one level's weight; depth is the level's rows (image, cell).
// Grid: for each level its tiles, input channels first. Shared bytes: GemmTile::SHARED.
// Bound: writing the gradient, of the weights' size.
template <class G>
__global__ void __launch_bounds__(G::THREADS)
    pyramid_project_bwd_dweights_kernel(const __grid_constant__ PyramidProjectBwdDweightsParams p) {
    using T = typename G::T;
    const ProjectPyramid& pyramid = p.pyramid;
    const ProjectLevel& level = pyramid.level[level_of_block(pyramid)];
    const int block = blockIdx.x - level.first_block, c_blocks = ceil_div(pyramid.c, G::COLS);
    const int o0 = block / c_blocks * G::ROWS, c0 = block % c_blocks * G::COLS;

    const T* g_dz = static_cast<const T*>(p.dz) + level.first_channel * p.dz_c;
    const T* g_x = static_cast<const T*>(p.pooled) + level.first_cell * p.x_s;
    const Operand<T> dz{g_dz, Dim::plain(level.channels, p.dz_c), rows_of(pyramid.n, level.cells, p.dz_n, p.dz_s)};
    const Operand<T> x{g_x, Dim::plain(pyramid.c, p.x_c), rows_of(pyramid.n, level.cells, p.x_n, p.x_s)};
    Acc<T> r_acc[G::Product::COUNT];
    multiply_tile<G>(dz, o0, x, c0, shared_memory<T>(), r_acc);

    T* g_dw = static_cast<T*>(level.weight);
    for_each_product<G>(r_acc, shared_memory<Acc<T>>(), level.w_o < level.w_c, [&](int row, int col, const auto& r) {
        const int o = o0 + row, c = c0 + col, count = pyramid.c - c;
        if (o < level.channels && count > 0)
            store_rounded(g_dw + o * level.w_o + c * level.w_c, r.at, count, level.w_c);
    });
}

}  // namespace pk
