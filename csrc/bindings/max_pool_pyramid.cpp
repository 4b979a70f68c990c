// Python bindings of max_pool_pyramid.
#include "max_pool_pyramid/max_pool_pyramid.h"

#include "bindings/call.h"

namespace pk::bindings {

namespace {

MaxPools pools_of(py::handle settings) {
    MaxPools pools{};
    const auto sizes = field<std::vector<int>>(settings, "kernel_sizes");
    pools.levels = static_cast<int>(sizes.size());
    if (pools.levels > MaxPools::max_levels) throw std::invalid_argument("at most 8 levels");
    std::ranges::copy(sizes, pools.size);
    pools.cascade = field<bool>(settings, "cascade");
    pools.descending = choice(settings, "order", {"ascending", "descending"});
    return pools;
}

/// `x`: x or dx.
MaxPoolPyramidProblem problem_of(const MaxPools& pools, bool channels_last, int processors, const TensorRef& x) {
    MaxPoolPyramidProblem p{};
    take_map("x", x, p);
    p.pools = pools, p.channels_last = channels_last, p.dtype = dtype_of("x", x), p.processors = processors;
    return p;
}

Status fwd(Queue queue, const MaxPools& pools, const bool& channels_last, const int& processors, const TensorRef& x,
           const TensorRef& y, const TensorRef& indices) {
    const auto p = problem_of(pools, channels_last, processors, x);
    return launch_max_pool_pyramid_fwd({p, x.data, y.data, indices.as<std::uint8_t>()}, queue);
}

Status bwd(Queue queue, const MaxPools& pools, const bool& channels_last, const int& processors, const TensorRef& dy,
           const TensorRef& indices, const TensorRef& dx) {
    auto p = problem_of(pools, channels_last, processors, dx);
    expect("dy", dy, {p.n, (1 + pools.levels) * p.c, p.h, p.w});
    expect("indices", indices, {p.n, pools.levels * p.c, p.h, p.w});
    std::copy_n(dy.stride, 4, p.strides);
    return launch_max_pool_pyramid_bwd({p, dy.data, indices.as<const std::uint8_t>(), dx.data}, queue);
}

const Binding binding([](py::module_& m) {
    m.def("max_pool_pyramid_fwd", prepared(pools_of, fwd));
    m.def("max_pool_pyramid_bwd", prepared(pools_of, bwd));
});

}  // namespace

}  // namespace pk::bindings
