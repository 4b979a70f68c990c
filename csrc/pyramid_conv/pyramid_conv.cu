// Launchers of pyramid_conv: checks, tiles and grids.
#include <algorithm>
#include <bit>

#include "common/launch.cuh"
#include "pyramid_conv/pyramid_conv.h"
#include "pyramid_conv/pyramid_conv_bwd.cuh"
#include "pyramid_conv/pyramid_conv_fwd.cuh"

namespace pk {

namespace {

using namespace pyramid_conv;

constexpr long long int_limit = 1LL << 31;

Status check(const PyramidConvProblem& p) {
    PK_CHECK(p.n >= 0 && p.o >= 1 && p.h >= 1 && p.w >= 1, "the output must be (n, o, h, w), got (", p.n, ", ", p.o,
             ", ", p.h, ", ", p.w, ")");
    PK_CHECK(p.count >= 0 && p.count <= pyramid_conv_levels, "at most ", pyramid_conv_levels, " levels a launch, got ",
             p.count);
    PK_CHECK(p.how == Resample::nearest || p.how == Resample::half_pixel || p.how == Resample::align_corners,
             "levels must be resized by nearest, half_pixel or align_corners, got ", static_cast<int>(p.how));
    return {};
}

/// Whether channels of every pixel of a map (n, c, h, w) of these strides can be read or written in vectors.
template <class T>
bool takes_vectors(const void* data, const int64_t (&strides)[4], int n, int h, int w, int elements) {
    const int sizes[] = {n, 1, h, w};
    bool aligned = is_aligned(data, elements * sizeof(T)) && strides[1] == 1;
    for (int d : {0, 2, 3}) aligned &= sizes[d] <= 1 || strides[d] % elements == 0;  // of one, a stride says nothing
    return aligned;
}

/// `level` for kernels that read or write its channels in vectors of `elements`.
template <class T>
Status level_of(const PyramidConvProblem& p, const PyramidConvLevel& level, int elements, Level& to) {
    const bool aligned = takes_vectors<T>(level.data, level.strides, p.n, level.h, level.w, elements);
    to = {level.data, {}, {}, {}, aligned && p.o % elements == 0};
    std::copy_n(level.strides, 4, to.strides);
    PK_TRY(resized_axis(p.how, level.h, p.h, false, to.y));
    return resized_axis(p.how, level.w, p.w, false, to.x);
}

/// Whether vectors along the channels of a dense channels_last tensor of the output's shape can be read or written.
template <class T>
bool takes_vectors(const PyramidConvProblem& p, const void* tensor) {
    return is_aligned(tensor, 16) && p.o % vec_size<T> == 0;
}

template <class T>
Operand operand_of(const PyramidConvProblem& p, const PyramidConvOperand& operand) {
    constexpr int V = vec_size<T>;
    return {operand, takes_vectors<T>(operand.x, operand.strides, p.n, p.h, p.w, V),
            is_aligned(operand.weight, 16) && operand.weight_c == 1 && operand.weight_o % V == 0};
}

template <class T, bool ChannelsLast>
Status merge_of(const PyramidConvMergeParams& params, Merge& m) {
    const PyramidConvProblem& p = params.problem;
    const unsigned lanes = ChannelsLast ? ceil_div(p.o, lane_channels<T, ChannelsLast>) : p.w;
    m = {};
    m.o = p.o, m.h = p.h, m.w = p.w, m.count = p.count;
    m.base = params.base, m.bias = params.bias, m.scale = params.scale, m.shift = params.shift;
    m.bias_is_t = params.bias_is_t, m.scale_is_t = params.scale_is_t, m.shift_is_t = params.shift_is_t;
    m.relu = params.relu, m.y = params.y, m.z = params.z;
    // 128 bytes: a line of cells for as many columns as possible, which share it. Products have tiles of one shape.
    m.width = params.operand.x ? (ChannelsLast ? tile_slots : tile_cols)
                               : std::min(ChannelsLast ? 8u : 32u, std::bit_ceil(lanes));
    m.operand = operand_of<T>(p, params.operand);
    m.aligned = takes_vectors<T>(p, m.base) && takes_vectors<T>(p, m.y) && takes_vectors<T>(p, m.z);
    for (int i = 0; i < p.count; ++i) PK_TRY(level_of<T>(p, p.levels[i], vec_size<T>, m.levels[i]));
    return {};
}

/// Cells per block: those with which a row of cells takes the fewest chunks of columns.
int strip_of(const ResizedAxis& axis, int k) {
    const auto chunks = [&](int cells) {
        const long long reached = (cells + 1LL) * axis.full / axis.size + k;
        return ceil_div(axis.size, cells) * ceil_div(std::min<long long>(reached, axis.full), 1LL * gather_cols);
    };
    int best = 1;
    for (int cells = 2; cells <= std::min(axis.size, gather_cells); ++cells)
        if (chunks(cells) < chunks(best)) best = cells;
    return best;
}

template <class T>
Status gradients_of(const PyramidConvBwdLevelsParams& params, Gradients& g) {
    const PyramidConvProblem& p = params.problem;
    g = {params.dz, takes_vectors<T>(p, params.dz), p.n, p.o, p.h, p.w, p.count, {}};
    for (int i = 0; i < p.count; ++i) {
        Gradient& to = g.levels[i];
        PK_TRY(level_of<T>(p, p.levels[i], quad<T>, to.level));
        to.strip = strip_of(to.level.x, p.k);
        to.strips = ceil_div(to.level.x.size, to.strip);
        to.blocks = 1LL * p.n * ceil_div(p.o, gather_quads * quad<T>) * to.level.y.size * to.strips;
    }
    // A block whose cells are reached from afar runs longest and starts first.
    std::stable_sort(g.levels, g.levels + p.count, [](const Gradient& a, const Gradient& b) {
        return a.level.y.size * a.level.x.size < b.level.y.size * b.level.x.size;
    });
    return {};
}

template <Inside Value>
constexpr std::integral_constant<Inside, Value> constant{};

/// Call `body(Type<T>{}, integral_constant<k>{}, bool_constant<channels_last>{})`.
template <class Body>
Status visit(const PyramidConvProblem& p, Body&& body) {
    return visit_dtype(p.dtype, [&](auto type) {
        return visit_int<1, 3>("taps along an axis", p.k, [&](auto k) {
            return visit_bool(p.channels_last, [&](auto last) { return body(type, k, last); });
        });
    });
}

}  // namespace

Status launch_pyramid_conv_merge(const PyramidConvMergeParams& params, Queue queue) {
    const PyramidConvProblem& p = params.problem;
    PK_TRY(check(p));
    PK_CHECK(!params.operand.x || (p.k == 1 && !params.base), "a product inside takes a 1x1 and no base");
    return visit(p, [&]<class T>(Type<T>, auto k, auto last) {
        Merge m;
        PK_TRY((merge_of<T, last>(params, m)));
        const int others = merge_threads / m.width, slice = (last ? m.width : others) * lane_channels<T, last>;
        const long long tiles = 1LL * p.n * ceil_div(p.h, merge_rows) * ceil_div(p.w, last ? others : m.width);
        const int slices = ceil_div(p.o, slice);
        PK_CHECK(tiles < int_limit && slices < 65536, "the output is too large for one launch");
        const auto run = [&](auto inside) {
            using G = ProductTile<T, inside == Inside::tf32, last>;
            const Shape shape{dim3(tiles, slices), dim3(merge_threads), inside == Inside::none ? 0 : G::SHARED};
            return launch("pyramid_conv_merge_kernel", p.dtype, pyramid_conv_merge_kernel<T, k, last, inside>, shape,
                          queue, m);
        };
        if constexpr (k == 1) {
            if constexpr (std::is_same_v<T, float>)
                if (params.operand.x && params.operand.tf32) return run(constant<Inside::tf32>);
            if (params.operand.x) return run(constant<Inside::ieee>);
        }
        return run(constant<Inside::none>);
    });
}

Status launch_pyramid_conv_bwd_dlevels(const PyramidConvBwdLevelsParams& params, Queue queue) {
    const PyramidConvProblem& p = params.problem;
    PK_TRY(check(p));
    return visit(p, [&]<class T>(Type<T>, auto k, auto last) {
        Gradients g;
        PK_TRY(gradients_of<T>(params, g));
        long long blocks = 0;
        for (int i = 0; i < p.count; ++i) blocks += g.levels[i].blocks;
        PK_CHECK(blocks < int_limit, "the gradients are too large for one launch");
        return launch("pyramid_conv_bwd_dlevels_kernel", p.dtype, pyramid_conv_bwd_dlevels_kernel<T, k, last>,
                      Shape{dim3(blocks), dim3(gather_threads)}, queue, g);
    });
}

}  // namespace pk
