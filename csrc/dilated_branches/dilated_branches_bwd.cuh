// Input and weight gradients of dilated_branches from dz, the gradient before the norms; gathers, in fixed order.
#pragma once

#include "dilated_branches/tile.cuh"

namespace pk {

/// dx. Owns: a block owns 128 pixels and 128 input channels: one accumulator over every branch and live tap, so that no
/// gradient per branch ever exists. Grid: channel blocks first, then tiles.
/// Shared bytes: a ring of 35,840 a stage. Bound: tensor cores.
template <class G>
__global__ void __launch_bounds__(G::THREADS)
    dilated_branches_bwd_dx_kernel(const __grid_constant__ DilatedBranchesBwdDxParams p) {
    using T = typename G::T;
    constexpr int V = vec_size<T>;
    const Extent map = p.branches.map;
    const int c0 = blockIdx.x % ceil_div(p.branches.c, G::COLS) * G::COLS;
    const TilePlace place = plain_place(map, p.tile, ceil_div(p.branches.c, G::COLS), blockIdx.x);
    const T* g_dz = static_cast<const T*>(p.dz);
    const bool dz_vectors = starts_vectors(g_dz, p.dz_n, p.dz_h, p.dz_w);

    int steps = 0;
    for (int b = 0; b < p.branches.count; ++b) {
        const BranchShape shape = p.branches.branch[b].shape;
        steps += live_taps(live_group(map, p.tile, shape, place)) * ceil_div(shape.o, G::DEPTH);
    }
    // The next step to copy: steps pass through every branch, its live taps, and blocks of its output channels.
    int b = 0, index = 0, k = 0;
    Group g = live_group(map, p.tile, p.branches.branch[0].shape, place);
    const auto copy = [&](int, int stage) {
        const Branch& branch = p.branches.branch[b];
        const Tap tap =
            tap_of(g, branch.shape, index);  // reads dz at the pixel + (dy, dx): the opposite tap's gradient
        const int number = branch.shape.side == 3 ? 8 - tap.number : 0;
        const T* g_w = static_cast<const T*>(branch.weight) + number * branch.w_tap;
        const bool w_vectors = starts_vectors(g_w, branch.w_o);
        const T* g_branch = g_dz + branch.first;
        T* s_stage = shared_memory<T>() + stage * G::STAGE;
        copy_rows<typename G::A, G::THREADS>(
            s_stage, k, branch.shape.o, dz_vectors && branch.first % V == 0, g_dz, [&](int row) -> const T* {
                const Pixel px = pixel_at(place, p.tile, map, row);
                const int y = px.y + tap.dy, x = px.x + tap.dx;
                const bool inside = px.exists && 0 <= y && y < map.h && 0 <= x && x < map.w;
                return inside ? g_branch + px.image * p.dz_n + y * p.dz_h + x * p.dz_w : nullptr;
            });
        copy_rows<typename G::B, G::THREADS>(s_stage + G::A::SIZE, c0, p.branches.c, w_vectors, g_w, [&](int row) {
            return k + row < branch.shape.o ? g_w + (k + row) * branch.w_o : nullptr;
        });
        if ((k += G::DEPTH) < branch.shape.o) return;
        k = 0;
        if (++index < live_taps(g)) return;
        index = 0;
        if (++b < p.branches.count) g = live_group(map, p.tile, p.branches.branch[b].shape, place);
    };
    float r_acc[G::COUNT] = {};
    pipelined(ring_stages(p.branches.arch), 0, steps, copy,
              [&](int stage) { G::multiply(shared_memory<T>() + stage * G::STAGE, r_acc); });

    const float* s_tile = shared_memory<float>();
    G::spread(r_acc, 0, shared_memory<float>());
    __syncthreads();
    for_each_vector<G, V>(p.dx_w < p.dx_c, [&](int row, int col) {
        const Pixel px = pixel_at(place, p.tile, map, row);
        const int count = p.branches.c - c0 - col;
        if (!px.exists || count <= 0) return;
        T* g_dx = static_cast<T*>(p.dx) + px.image * p.dx_n + px.y * p.dx_h + px.x * p.dx_w + (c0 + col) * p.dx_c;
        store_rounded(g_dx, s_tile + row * G::PITCH + col, count, p.dx_c);
    });
}

/// dw. Owns: a block owns 128 output and 128 input channels of one tap, over its share of the tap's pixels.
/// Grid: x tiles of all branches, taps first; y splits. Shared bytes: a ring of 34,816 a stage. Bound: tensor cores.
template <class G>
__global__ void __launch_bounds__(G::THREADS)
    dilated_branches_bwd_dw_kernel(const __grid_constant__ DilatedBranchesBwdDwParams p) {
    using T = typename G::T;
    constexpr int V = vec_size<T>;
    const Extent map = p.branches.map;
    const int b = branch_of(p.first_block, p.branches.count, blockIdx.x), local = blockIdx.x - p.first_block[b];
    const Branch& branch = p.branches.branch[b];
    const int taps = branch.shape.side * branch.shape.side, c_tiles = ceil_div(p.branches.c, G::COLS);
    const int tap = local % taps, c0 = local / taps % c_tiles * G::COLS, o0 = local / (taps * c_tiles) * G::ROWS;
    const TapRectangle area(map, branch.shape, tap);
    const int pixels = map.n * area.rows * area.cols;
    const int share = ceil_div(ceil_div(pixels, p.splits), G::DEPTH) * G::DEPTH;
    const int first = smaller(static_cast<int>(blockIdx.y) * share, pixels), end = smaller(first + share, pixels);

    const T* g_dz = static_cast<const T*>(p.dz) + branch.first;
    const T* g_x = static_cast<const T*>(p.x);
    const bool dz_vectors = starts_vectors(g_dz, p.dz_n, p.dz_h, p.dz_w);
    const bool x_vectors = starts_vectors(g_x, p.x_n, p.x_h, p.x_w);
    const auto copy = [&](int step, int stage) {
        // Both panels are [pixel][channel]; pixels of the rectangle stand in one row, image by image.
        const auto line_of = [&](int row, const T* g, long long n, long long h, long long w, int dy,
                                 int dx) -> const T* {
            const int pixel = first + step * G::DEPTH + row;
            if (pixel >= end) return nullptr;
            const int rest = pixel / area.cols, x = area.x0 + pixel % area.cols, y = area.y0 + rest % area.rows;
            return g + rest / area.rows * n + (y + dy) * h + (x + dx) * w;
        };
        T* s_stage = shared_memory<T>() + stage * G::STAGE;
        copy_rows<typename G::A, G::THREADS>(s_stage, o0, branch.shape.o, dz_vectors, g_dz,
                                             [&](int row) { return line_of(row, g_dz, p.dz_n, p.dz_h, p.dz_w, 0, 0); });
        copy_rows<typename G::B, G::THREADS>(s_stage + G::A::SIZE, c0, p.branches.c, x_vectors, g_x, [&](int row) {
            return line_of(row, g_x, p.x_n, p.x_h, p.x_w, area.dy, area.dx);
        });
    };
    float r_acc[G::COUNT] = {};
    pipelined(ring_stages(p.branches.arch), 0, ceil_div(end - first, G::DEPTH), copy,
              [&](int stage) { G::multiply(shared_memory<T>() + stage * G::STAGE, r_acc); });

    const float* s_tile = shared_memory<float>();
    G::spread(r_acc, 0, shared_memory<float>());
    __syncthreads();
    for_each_vector<G, V>(false, [&](int row, int col) {
        const int o = o0 + row, c = c0 + col, count = p.branches.c - c;
        if (o >= branch.shape.o || count <= 0) return;
        if (p.splits == 1) {
            T* g_dw = static_cast<T*>(branch.weight) + o * branch.w_o + c * branch.w_c + tap * branch.w_tap;
            store_rounded(g_dw, s_tile + row * G::PITCH + col, count, branch.w_c);
        } else {
            float* g_part = part_of(p, blockIdx.y, b, 1LL * o * taps + tap);
            for (int i = 0; i < V; ++i)
                if (i < count) g_part[c + i] = s_tile[row * G::PITCH + col + i];
        }
    });
}

/// dw from its splits, added in order. Owns: a thread owns one element of one branch's gradient, as part lays it out.
template <class T>
__global__ void __launch_bounds__(256)
    dilated_branches_bwd_dw_sum_kernel(const __grid_constant__ DilatedBranchesBwdDwParams p) {
    const long long e = 256LL * blockIdx.x + threadIdx.x;
    if (e >= p.elements) return;
    const int b = branch_of(p.first_element, p.branches.count, e);
    const Branch& branch = p.branches.branch[b];
    const int taps = branch.shape.side * branch.shape.side;
    float sum = 0;
    for (int split = 0; split < p.splits; ++split) sum += p.part[split * p.elements + e];
    const long long local = e - p.first_element[b], row = local / p.branches.c;
    const long long at = row / taps * branch.w_o + local % p.branches.c * branch.w_c + row % taps * branch.w_tap;
    static_cast<T*>(branch.weight)[at] = narrow<T>(sum);
}

}  // namespace pk
