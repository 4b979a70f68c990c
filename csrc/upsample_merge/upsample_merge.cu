// Launchers of upsample_merge: checks, tiles and grids.
#include <algorithm>
#include <bit>

#include "common/launch.cuh"
#include "upsample_merge/upsample_merge.h"
#include "upsample_merge/upsample_merge_bwd.cuh"
#include "upsample_merge/upsample_merge_bwd_affine.cuh"
#include "upsample_merge/upsample_merge_fwd.cuh"

namespace pk {

namespace {

using namespace upsample_merge;

constexpr long long int_limit = 1LL << 31;

Status check(const UpsampleMergeProblem& p) {
    PK_CHECK(p.n >= 0 && p.c >= 0 && p.h >= 1 && p.w >= 1, "the output must be (n, c, h, w), got (", p.n, ", ", p.c,
             ", ", p.h, ", ", p.w, ")");
    PK_CHECK(static_cast<long long>(p.h) * p.w < int_limit, "an output of ", p.h, " x ", p.w, " pixels is too large");
    PK_CHECK(p.count >= 0 && p.count <= upsample_merge_maps, "at most ", upsample_merge_maps, " maps a launch, got ",
             p.count);
    PK_CHECK(p.how == Resample::nearest || p.how == Resample::half_pixel || p.how == Resample::align_corners,
             "maps must be resized by nearest, half_pixel or align_corners, got ", static_cast<int>(p.how));
    for (int i = 0; i < p.count; ++i) {
        const UpsampleMergeMap& map = p.maps[i];
        PK_CHECK(map.first >= 0 && map.first + map.c <= p.c && (!p.sum || map.c == p.c), "map ", i, " of ", map.c,
                 " channels from ", map.first, " on does not fit ", p.c, " output channels");
    }
    return {};
}

Status axes(const UpsampleMergeProblem& p, const UpsampleMergeMap& map, ResizedAxis& y, ResizedAxis& x) {
    const bool taken = map.h == p.h && map.w == p.w;
    PK_TRY(resized_axis(p.how, map.h, p.h, taken, y));
    return resized_axis(p.how, map.w, p.w, taken, x);
}

/// Whether every pixel of the map lies one column's stride behind the one before it.
bool is_flat(const UpsampleMergeProblem& p, const UpsampleMergeMap& map) {
    return map.h == p.h && map.w == p.w && (map.h == 1 || map.strides[2] == map.w * map.strides[3]);
}

/// Whether vectors along the output's contiguous dimension can be read from, or written to, the map.
template <class T>
bool takes_vectors(const UpsampleMergeProblem& p, const UpsampleMergeMap& map) {
    const int inner = p.channels_last ? 1 : 3, bytes = (p.channels_last ? vec_size<T> : pixels_of<T>)*sizeof(T);
    const int sizes[] = {p.n, map.c, map.h, map.w};
    bool aligned = is_aligned(map.data, bytes) && map.strides[inner] == 1 && (p.channels_last || is_flat(p, map));
    for (int d = 0; d < (p.channels_last ? 4 : 2); ++d)
        aligned &= d == inner || sizes[d] <= 1 || map.strides[d] * sizeof(T) % bytes == 0;
    return aligned;
}

/// Whether vectors of the dense output-shaped tensor do; in channels_last those of slices from a multiple on.
template <class T>
bool takes_vectors(const UpsampleMergeProblem& p, const void* tensor) {
    const int vector = p.channels_last ? vec_size<T> : pixels_of<T>;
    return is_aligned(tensor, vector * sizeof(T)) && (p.channels_last ? p.c : p.h * p.w) % vector == 0;
}

/// Channels of a map that one block takes.
template <class T>
int slice_channels(bool channels_last, int c, int channels) {
    const unsigned vectors = ceil_div(c, vec_size<T>);
    return channels_last ? vec_size<T> * static_cast<int>(std::min(32u, std::bit_ceil(vectors))) : channels;
}

/// `channels`: those of an NCHW block.
template <class T>
Status maps_of(const UpsampleMergeProblem& p, int channels, Maps& m) {
    m = {p.n, p.c, p.h, p.w, p.sum, p.count, {}};
    for (int i = 0; i < p.count; ++i) {
        const UpsampleMergeMap& map = p.maps[i];
        const int slice = slice_channels<T>(p.channels_last, map.c, channels);
        Map& to = m.maps[i];
        to = {map.data, map.c, map.first, {}, {}, {}, is_flat(p, map), takes_vectors<T>(p, map), slice};
        std::copy_n(map.strides, 4, to.strides);
        PK_CHECK((map.h - 1) * map.strides[2] + (map.w - 1) * map.strides[3] < int_limit, "map ", i, " of (", map.h,
                 ", ", map.w, ") pixels spreads over more than 2^31 elements");
        PK_TRY(axes(p, map, to.y, to.x));
    }
    return {};
}

int slices_of(const Maps& m) {
    int slices = 0;
    for (int i = 0; i < (m.sum ? 1 : m.count); ++i) slices += ceil_div(m.maps[i].c, m.maps[i].slice);
    return slices;
}

/// Threads of a block.
template <class T>
int threads_of(const Maps& m, bool channels_last) {
    const unsigned strips = ceil_div(m.h * m.w, pixels_of<T>);
    return channels_last ? merge_threads : std::clamp<int>(std::bit_ceil(strips), 32, merge_threads);
}

/// Outputs that a source pixel reaches along an axis, about.
int reach(const ResizedAxis& axis) {
    return axis.how == Resample::taken ? 1 : std::min(axis.full, 2 * ceil_div(axis.full, axis.size) + 1);
}

/// How the threads of a block share the source pixels of one map, and how many blocks that takes.
template <class T>
Status divide(const UpsampleMergeProblem& p, Gradient& map) {
    const bool last = p.channels_last, pass = map.y.how == Resample::taken;
    const int far = reach(last ? map.y : map.x);
    map.team = far <= 8 ? 1 : far <= 24 ? 8 : last ? 64 : reach(map.y) <= 8 ? 32 : gather_threads;
    const unsigned vectors = ceil_div(map.c, vec_size<T>);
    const int at_once = gather_threads / map.team;
    map.width = std::min<int>(std::bit_ceil(vectors), std::min(32, at_once));
    const long long pixels = static_cast<long long>(map.y.size) * map.x.size, width = map.width;
    const long long units = (pass ? ceil_div<long long>(pixels, pixels_of<T>) : pixels) * ceil_div(map.c, slab);
    const long long slots = at_once / width * (pass ? gradients_deep : 1);
    const long long blocks =
        last ? ceil_div<long long>(vectors, width) * ceil_div(pixels, slots) : ceil_div<long long>(units, at_once);
    PK_CHECK(blocks * gather_threads < int_limit && p.n * blocks < int_limit, "a map of (", p.n, ", ", map.c, ", ",
             map.y.size, ", ", map.x.size, ") is too large for one launch");
    map.blocks_per_image = static_cast<int>(blocks);
    map.blocks = p.n * map.blocks_per_image;
    return {};
}

template <class T>
Status backward_of(const UpsampleMergeBwdMapsParams& params, Backward& b) {
    const UpsampleMergeProblem& p = params.problem;
    const bool aligned = takes_vectors<T>(p, params.dy) && (!params.y || takes_vectors<T>(p, params.y));
    b = {params.dy, params.y, params.scale, params.scale_is_t, aligned, p.c, p.h, p.w, p.count, {}};
    for (int i = 0; i < p.count; ++i) {
        const UpsampleMergeMap& map = p.maps[i];
        Gradient& to = b.maps[i];
        to = {map.data, map.c, map.first, {}, {}, {}, takes_vectors<T>(p, map), 1, 1, 0, 0};
        std::copy_n(map.strides, 4, to.strides);
        PK_TRY(axes(p, map, to.y, to.x));
        PK_TRY(divide<T>(p, to));
    }
    // A block whose pixels are reached from afar runs longest and starts first.
    std::stable_sort(b.maps, b.maps + p.count, [](const Gradient& a, const Gradient& c) {
        return reach(a.y) * reach(a.x) > reach(c.y) * reach(c.x);
    });
    return {};
}

}  // namespace

Status launch_upsample_merge_fwd(const UpsampleMergeFwdParams& params, Queue queue) {
    const UpsampleMergeProblem& p = params.problem;
    PK_TRY(check(p));
    return visit_layout(p.dtype, p.channels_last, [&]<class T>(Type<T>, auto last) {
        Forward f{{},
                  params.scale,
                  params.shift,
                  params.scale_is_t,
                  params.shift_is_t,
                  params.relu,
                  takes_vectors<T>(p, params.y),
                  params.y};
        PK_TRY(maps_of<T>(p, wide_slab<T>, f.maps));
        const int threads = threads_of<T>(f.maps, last), slices = slices_of(f.maps);
        const long long tiles = p.n * ceil_div<long long>(p.h * p.w, last ? tile_pixels : threads * pixels_of<T>);
        PK_CHECK(tiles < int_limit && slices < 65536, "the output is too large for one launch");
        const size_t shared = last ? (p.sum ? p.count : 1) * tile_pixels * sizeof(Corners<Acc<T>>) : 0;
        return launch("upsample_merge_fwd_kernel", p.dtype, upsample_merge_fwd_kernel<T, last>,
                      Shape{dim3(tiles, slices), dim3(threads), shared}, queue, f);
    });
}

Status launch_upsample_merge_bwd_dmaps(const UpsampleMergeBwdMapsParams& params, Queue queue) {
    const UpsampleMergeProblem& p = params.problem;
    PK_TRY(check(p));
    return visit_layout(p.dtype, p.channels_last, [&]<class T>(Type<T>, auto last) {
        Backward b;
        PK_TRY(backward_of<T>(params, b));
        long long blocks = 0;
        for (int i = 0; i < p.count; ++i) blocks += static_cast<long long>(p.n) * b.maps[i].blocks_per_image;
        PK_CHECK(blocks < int_limit, "the gradients are too large for one launch");
        return launch("upsample_merge_bwd_dmaps_kernel", p.dtype, upsample_merge_bwd_dmaps_kernel<T, last>,
                      Shape{dim3(blocks), dim3(gather_threads)}, queue, b);
    });
}

Status launch_upsample_merge_bwd_affine(const UpsampleMergeBwdAffineParams& params, Queue queue) {
    const UpsampleMergeProblem& p = params.problem;
    PK_TRY(check(p));
    PK_CHECK(params.parts >= 1, "parts must be positive, got ", params.parts);
    return visit_layout(p.dtype, p.channels_last, [&]<class T>(Type<T>, auto last) {
        const bool recompute = p.count > 0;
        const bool aligned = takes_vectors<T>(p, params.dy) && (!params.y || takes_vectors<T>(p, params.y));
        Affine a{{}, params.dy, params.y, recompute, aligned, params.part};
        PK_TRY(maps_of<T>(p, slab, a.maps));
        if (!recompute) {  // one map of all channels; nothing of it is read
            a.maps.count = 1, a.maps.maps[0].c = p.c;
            a.maps.maps[0].slice = slice_channels<T>(last, p.c, slab);
        }
        const int threads = threads_of<T>(a.maps, last), slices = slices_of(a.maps);
        PK_CHECK(static_cast<long long>(p.n) * p.h * p.w < int_limit && slices < 65536,
                 "dy is too large for one launch");
        return launch("upsample_merge_bwd_affine_kernel", p.dtype, upsample_merge_bwd_affine_kernel<T, last>,
                      Shape{dim3(params.parts, slices), dim3(threads)}, queue, a);
    });
}

Status launch_upsample_merge_sums(const UpsampleMergeSumsParams& params, Queue queue) {
    return visit_dtype(params.dtype, [&]<class T>(Type<T>) {
        using A = Acc<T>;
        const dim3 grid(ceil_div(params.c, sums_channels), params.rows);
        return launch("upsample_merge_sums_kernel", params.dtype, upsample_merge_sums_kernel<A>,
                      Shape{grid, dim3(sums_threads)}, queue, static_cast<const A*>(params.part),
                      static_cast<A*>(params.sums), params.parts, params.c);
    });
}

}  // namespace pk
