// Launchers of channel_gate: checks, shares of the map, grids.
#include <algorithm>
#include <bit>

#include "channel_gate/channel_gate.h"
#include "channel_gate/channel_gate_bwd.cuh"
#include "channel_gate/channel_gate_fwd.cuh"
#include "common/launch.cuh"

namespace pk {

namespace {

using namespace channel_gate;

constexpr long long int_limit = 1LL << 31;

Status check(const ChannelGateProblem& p) {
    PK_CHECK(p.n >= 0 && p.c > 0 && p.h > 0 && p.w > 0 && p.k > 0 && p.parts > 0, "n, c, h, w, k and parts must be ",
             "positive, got ", p.n, ", ", p.c, ", ", p.h, ", ", p.w, ", ", p.k, " and ", p.parts);
    PK_CHECK(1LL * p.h * p.w < int_limit - (1 << 16), "a map of ", p.h, " x ", p.w, " pixels is too large");
    PK_CHECK(p.parts <= 1 << 16, "at most ", 1 << 16, " shares of a map, got ", p.parts);
    PK_CHECK(p.c + p.k <= channel_gate_widest, "at most ", channel_gate_widest,
             " channels and hidden values together, ", "got ", p.c, " and ", p.k);
    PK_CHECK(p.weight2.at || p.k == p.c, "without a second weight k must be c, got ", p.k, " and ", p.c);
    PK_CHECK((1LL * p.n * p.c + strip_warps) * p.parts < int_limit, "too many shares for one launch");
    return {};
}

/// A map of the problem's shape; `strides` (n, c, h, w).
template <class T>
View view_of(const ChannelGateProblem& p, const void* at, const std::int64_t* strides) {
    const int inner = p.channels_last ? 1 : 3, sizes[] = {p.n, p.c, p.h, p.w};
    View v{const_cast<void*>(at), strides[0], strides[1], strides[2], strides[3], false, false};
    v.flat = p.h == 1 || strides[2] == p.w * strides[3];
    v.aligned = is_aligned(at, 16) && strides[inner] == 1 && (p.channels_last || v.flat);
    for (int d = 0; d < (p.channels_last ? 4 : 2); ++d)
        v.aligned &= d == inner || sizes[d] <= 1 || strides[d] * sizeof(T) % 16 == 0;
    return v;
}

/// A dense map in the problem's format.
template <class T>
View dense_of(const ChannelGateProblem& p, const void* at) {
    const std::int64_t c = p.c, w = p.w, pixels = p.h * w;
    const std::int64_t last[] = {c * pixels, 1, w * c, c}, first[] = {c * pixels, pixels, w, 1};
    return view_of<T>(p, at, p.channels_last ? last : first);
}

/// Launches over the whole map: its shares, and their grid.
struct Pass {
    Shares shares;
    Shape shape;
};

template <class T>
Pass pass_of(const ChannelGateProblem& p) {
    const int pixels = p.h * p.w, whole = p.channels_last ? 1 : 32 * vec_size<T>;
    const unsigned vectors = ceil_div(p.c, vec_size<T>);
    const int width = std::min(32u, std::bit_ceil(vectors));
    const int length = ceil_div(ceil_div(pixels, p.parts), whole) * whole;
    const long long planes = 1LL * p.n * p.c * p.parts;
    const dim3 grid = p.channels_last ? dim3(p.n * p.parts, ceil_div<unsigned>(vectors, width))
                                      : dim3(ceil_div<long long>(planes, strip_warps));
    return {{p.n, p.c, pixels, p.w, p.parts, length, width}, {grid, dim3(strip_threads)}};
}

Layers layers_of(const ChannelGateProblem& p) {
    return {p.c, p.k, p.parts, p.h * p.w, p.activation, p.hard, p.weight1, p.weight2, p.bias1, p.bias2, p.norm1};
}

/// Launches of the small products: `extra` accumulators beside one image's means and hidden values.
template <class T>
Shape products_of(const ChannelGateProblem& p, int extra) {
    const size_t shared = (p.c + p.k + extra) * sizeof(Acc<T>);
    return {dim3(p.n * ceil_div(p.c, owned)), dim3(product_threads), shared};
}

template <class T, bool ChannelsLast>
Status launch_sums(const ChannelGateProblem& p, const Pass& pass, const View& dy, Queue queue) {
    return launch("channel_gate_sums_kernel", p.dtype, channel_gate_sums_kernel<T, ChannelsLast>, pass.shape, queue,
                  pass.shares, view_of<T>(p, p.x, p.strides), dy, static_cast<Acc<T>*>(p.part));
}

template <class T>
Status launch_layer_gradients(const ChannelGateBwdParams& params, Queue queue) {
    using A = Acc<T>;
    const ChannelGateProblem& p = params.problem;
    const bool two = p.weight2.at != nullptr;
    const LayerGradients<A> gradients{layers_of(p),
                                      p.n,
                                      static_cast<const A*>(params.mean),
                                      static_cast<const A*>(params.hidden),
                                      static_cast<const A*>(params.dz),
                                      static_cast<const A*>(params.dhidden),
                                      params.dweight1,
                                      params.dweight2,
                                      static_cast<A*>(params.dvectors)};
    const long long elements = 1LL * p.k * p.c * (two ? 2 : 1) + p.k + (two ? p.c : 0);
    const dim3 grid(ceil_div<long long>(elements, product_threads));
    return launch("channel_gate_bwd_dweights_kernel", p.dtype, channel_gate_bwd_dweights_kernel<T>,
                  Shape{grid, dim3(product_threads)}, queue, gradients);
}

}  // namespace

Status launch_channel_gate_fwd(const ChannelGateFwdParams& params, Queue queue) {
    const ChannelGateProblem& p = params.problem;
    PK_TRY(check(p));
    return visit_layout(p.dtype, p.channels_last, [&]<class T>(Type<T>, auto last) -> Status {
        using A = Acc<T>;
        const Pass pass = pass_of<T>(p);
        PK_TRY((launch_sums<T, last>(p, pass, View{}, queue)));
        A* g_gate = static_cast<A*>(params.gate);
        const ForwardProducts<A> products{layers_of(p), static_cast<const A*>(p.part), static_cast<A*>(params.mean),
                                          static_cast<A*>(params.hidden), g_gate};
        PK_TRY(launch("channel_gate_fwd_gate_kernel", p.dtype, channel_gate_fwd_gate_kernel<T>, products_of<T>(p, 0),
                      queue, products));
        return launch("channel_gate_fwd_kernel", p.dtype, channel_gate_fwd_kernel<T, last>, pass.shape, queue,
                      pass.shares, view_of<T>(p, p.x, p.strides), static_cast<const A*>(g_gate),
                      dense_of<T>(p, params.y), p.residual);
    });
}

Status launch_channel_gate_bwd(const ChannelGateBwdParams& params, Queue queue) {
    const ChannelGateProblem& p = params.problem;
    PK_TRY(check(p));
    return visit_layout(p.dtype, p.channels_last, [&]<class T>(Type<T>, auto last) -> Status {
        using A = Acc<T>;
        const Pass pass = pass_of<T>(p);
        const View dy = dense_of<T>(p, params.dy);
        PK_TRY((launch_sums<T, last>(p, pass, dy, queue)));
        const A* g_gate = static_cast<const A*>(params.gate);
        A* g_dmean = static_cast<A*>(params.dmean);
        const BackwardProducts<A> products{
            layers_of(p), static_cast<const A*>(p.part), static_cast<const A*>(params.hidden),
            g_gate,       static_cast<A*>(params.dz),    static_cast<A*>(params.dhidden),
            g_dmean};
        PK_TRY(launch("channel_gate_bwd_gate_kernel", p.dtype, channel_gate_bwd_gate_kernel<T>,
                      products_of<T>(p, product_threads), queue, products));
        if (params.dvectors) PK_TRY(launch_layer_gradients<T>(params, queue));
        if (!params.dx) return {};
        return launch("channel_gate_bwd_dx_kernel", p.dtype, channel_gate_bwd_dx_kernel<T, last>, pass.shape, queue,
                      pass.shares, dy, g_gate, static_cast<const A*>(g_dmean), dense_of<T>(p, params.dx), p.residual);
    });
}

}  // namespace pk
