// Launchers of max_pool_pyramid.
#include "common/launch.cuh"
#include "max_pool_pyramid/max_pool_pyramid.h"
#include "max_pool_pyramid/max_pool_pyramid_bwd.cuh"
#include "max_pool_pyramid/max_pool_pyramid_fwd.cuh"

namespace pk {
namespace {

using max_pool::Tiles;
constexpr int64_t int_max = 2147483647;

Status check(const MaxPoolPyramidProblem& p) {
    PK_CHECK(p.n >= 0 && p.c >= 1 && p.h >= 1 && p.w >= 1, "sizes must be positive, got ", p.n, " x ", p.c, " x ", p.h,
             " x ", p.w);
    PK_CHECK(p.n <= int_max && p.c <= int_max / 9 && p.h * p.w <= int_max, "the map is too large: ", p.n, " x ", p.c,
             " x ", p.h, " x ", p.w);
    PK_CHECK(p.processors >= 1, "the device must have multiprocessors, got ", p.processors);
    PK_CHECK(1 <= p.pools.levels && p.pools.levels <= MaxPools::max_levels, "1 to ", MaxPools::max_levels,
             " levels, got ", p.pools.levels);
    int reach = 0;
    for (int i = 0; i < p.pools.levels; ++i) {
        const int size = p.pools.size[i], before = i && !p.pools.cascade ? p.pools.size[i - 1] : 0;
        PK_CHECK(size % 2 == 1 && before < size && size <= MaxPools::max_size,
                 "pools must be odd, ascending and at most ", MaxPools::max_size, ", got ", size);
        reach += size / 2;
    }
    PK_CHECK(!p.pools.cascade || reach <= MaxPools::max_reach, "a cascade reaches at most ", MaxPools::max_reach,
             " pixels, got ", reach);
    return {};
}

/// Halve a side until the vectors, `across` columns each, that its tile reaches fit; then tiles of one size.
void share_pixels(Tiles& t, int across, int vector_bytes) {
    int side = max_pool::largest_tile;
    const auto held = [&](int rows, int cols) {
        const int wide = cols + 2 * t.reach + across - 1;  // from a vector's start on
        return smaller(t.h, rows + 2 * t.reach) * ceil_div(smaller(t.w, wide), across);
    };
    while (held(side, side) * vector_bytes > max_pool::shared_bytes && side > max_pool::smallest_tile) side /= 2;
    t.down = ceil_div(t.h, side), t.right = ceil_div(t.w, side);
    t.rows = ceil_div(t.h, t.down), t.cols = ceil_div(ceil_div(t.w, t.right), across) * across;
    t.right = ceil_div(t.w, t.cols);
    t.area = held(t.rows, t.cols);
}

/// For vectors of V elements. More units per block as long as they fit and every multiprocessor has two blocks.
template <int V>
Status share(Tiles& t, const MaxPoolPyramidProblem& p, const MaxPools& pools, int vector_bytes, Shape& shape) {
    t.n = static_cast<int>(p.n), t.c = static_cast<int>(p.c);
    t.h = static_cast<int>(p.h), t.w = static_cast<int>(p.w);
    t.pools = pools, t.reach = 0;
    for (int i = 0; i < pools.levels; ++i)
        t.reach = pools.cascade ? t.reach + pools.size[i] / 2 : larger(t.reach, pools.size[i] / 2);
    share_pixels(t, p.channels_last ? 1 : V, vector_bytes);
    const int all = ceil_div(t.c, p.channels_last ? V : 1), unit_bytes = t.area * vector_bytes;
    const int64_t tiles = int64_t{t.n} * t.down * t.right;
    const auto blocks = [&] { return tiles * ceil_div(all, t.units); };
    t.units = max_pool::most_units;
    while (t.units > 1 &&
           (t.units * unit_bytes > max_pool::usual_bytes || t.units / 2 >= all || blocks() < 2 * p.processors))
        t.units /= 2;
    t.groups = ceil_div(all, t.units);
    PK_CHECK(blocks() <= int_max, "max_pool_pyramid: ", blocks(), " blocks are too many");
    shape = {dim3(blocks()), dim3(max_pool::threads), static_cast<size_t>(t.units) * unit_bytes};
    return {};
}

/// Without places, windows that ascend are a cascade of what each adds to the one before: the same values for less.
MaxPools as_cascade(const MaxPools& pools) {
    MaxPools steps = pools;
    steps.cascade = true;
    for (int i = 1; i < pools.levels && !pools.cascade; ++i) steps.size[i] = pools.size[i] - pools.size[i - 1] + 1;
    return steps;
}

}  // namespace

Status launch_max_pool_pyramid_fwd(const MaxPoolPyramidFwdParams& p, Queue queue) {
    PK_TRY(check(p.problem));
    return visit_layout(p.problem.dtype, p.problem.channels_last, [&]<class T>(Type<T>, auto last) {
        return visit_bool(p.indices != nullptr, [&](auto keep) {
            constexpr int V = max_pool::fwd_vector<T, last>;
            const MaxPools pools = keep ? p.problem.pools : as_cascade(p.problem.pools);
            Tiles tiles;
            Shape shape;
            PK_TRY(share<V>(tiles, p.problem, pools, max_pool::fwd_bytes<T, V, keep>, shape));
            return launch("max_pool_pyramid_fwd_kernel", p.problem.dtype, max_pool_pyramid_fwd_kernel<T, last, keep>,
                          shape, queue, p, tiles);
        });
    });
}

Status launch_max_pool_pyramid_bwd(const MaxPoolPyramidBwdParams& p, Queue queue) {
    PK_TRY(check(p.problem));
    return visit_layout(p.problem.dtype, p.problem.channels_last, [&]<class T>(Type<T>, auto last) {
        constexpr int V = max_pool::bwd_vector<T>;
        const MaxPools& pools = p.problem.pools;
        Tiles tiles;
        Shape shape;
        PK_TRY(share<V>(tiles, p.problem, pools, max_pool::bwd_bytes<T, V>(pools.cascade), shape));
        return launch("max_pool_pyramid_bwd_dx_kernel", p.problem.dtype, max_pool_pyramid_bwd_dx_kernel<T, last>, shape,
                      queue, p, tiles);
    });
}

}  // namespace pk
