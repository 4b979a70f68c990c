// Python bindings of separable_pyramid.
#include "separable_pyramid/separable_pyramid.h"

#include <array>

#include "bindings/call.h"

namespace pk::bindings {

namespace {

using Grids = std::vector<std::array<int, 2>>;  // rows and columns of every level

/// Levels side by side in `cells` (N, C, S), with their weights (C, 1, 3, 3).
SeparablePyramid pyramid_of(const Grids& grids, const TensorRefs& weights, const TensorRef& cells) {
    if (grids.size() > max_separable_levels) throw std::invalid_argument("at most 8 levels per launch");
    SeparablePyramid p{};
    const std::int64_t n = expect_dims("x", cells, 3).size[0], c = cells.size[1];
    p.dtype = dtype_of("x", cells), p.n = static_cast<int>(n), p.c = static_cast<int>(c);
    for (const auto& [rows, cols] : grids) {
        const TensorRef& weight = weights.at(static_cast<std::size_t>(p.levels));
        expect("a weight", weight, {c, 1, 3, 3});
        p.level[p.levels++] = {rows, cols, p.cells, weight.data, weight.stride[0], weight.stride[2], weight.stride[3]};
        p.cells += rows * cols;
    }
    expect("x", cells, {n, c, p.cells});
    return p;
}

Status depthwise(Queue queue, const Grids& grids, const bool& turned, const TensorRef& x, const TensorRef& y,
                 const TensorRefs& weights) {
    expect("y", y, {x.size[0], x.size[1], x.size[2]});
    return launch_separable_pyramid_depthwise({pyramid_of(grids, weights, x), x.data, x.stride[0], x.stride[1],
                                               x.stride[2], y.data, y.stride[0], y.stride[1], y.stride[2], turned},
                                              queue);
}

Status bwd_ddepthwise(Queue queue, const Grids& grids, const TensorRef& dy, const TensorRef& x,
                      const TensorRefs& dweights) {
    expect("dy", dy, {x.size[0], x.size[1], x.size[2]});
    return launch_separable_pyramid_bwd_ddepthwise({pyramid_of(grids, dweights, x), dy.data, dy.stride[0], dy.stride[1],
                                                    dy.stride[2], x.data, x.stride[0], x.stride[1], x.stride[2]},
                                                   queue);
}

const Binding binding([](py::module_& m) {
    m.def("separable_pyramid_depthwise", prepared(depthwise));
    m.def("separable_pyramid_bwd_ddepthwise", prepared(bwd_ddepthwise));
});

}  // namespace

}  // namespace pk::bindings
