// Python bindings of pyramid_pool.
#include "pyramid_pool/pyramid_pool.h"

#include "bindings/call.h"

namespace pk::bindings {

namespace {

PyramidPoolBins bins_of(py::handle settings) {
    PyramidPoolBins p{};
    p.windows = static_cast<Windows>(choice(settings, "windows", {"adaptive", "fixed", "ceil"}));
    p.max = field<std::string>(settings, "mode") == "max";
    const auto bins = field<std::vector<int>>(settings, "bins");
    p.levels = static_cast<int>(bins.size()) / 2;
    if (p.levels > PyramidPoolBins::max_levels) throw std::invalid_argument("at most 8 levels");
    for (int i = 0; i < 2 * p.levels; ++i) p.bins[i / 2][i % 2] = bins[static_cast<std::size_t>(i)];
    return p;
}

template <class Params>
Params on_map(const TensorRef& map, const char* name, const PyramidPoolBins& pyramid, int processors) {
    Params p{};
    expect_dims(name, map, 4);
    p.n = map.size[0], p.c = map.size[1], p.h = map.size[2], p.w = map.size[3];
    p.sn = map.stride[0], p.sc = map.stride[1], p.sh = map.stride[2], p.sw = map.stride[3];
    p.pyramid = pyramid, p.processors = processors, p.dtype = dtype_of(name, map);
    return p;
}

std::int64_t parts(py::handle settings, int processors, const TensorRef& x) {
    std::int64_t count = 0;
    const auto p = on_map<PyramidPoolFwdParams>(x, "x", bins_of(settings), processors);
    raise_unless_ok(pyramid_pool_parts(p, count));
    return count;
}

Status fwd(Queue queue, const PyramidPoolBins& pyramid, const int& processors, const TensorRef& x, const TensorRef& y,
           const TensorRef& indices, const TensorRef& parts, const TensorRef& part_indices) {
    auto p = on_map<PyramidPoolFwdParams>(x, "x", pyramid, processors);
    expect_dims("y", y, 3);
    p.yn = y.stride[0], p.yc = y.stride[1], p.ys = y.stride[2];
    p.x = x.data, p.y = y.data, p.indices = indices.as<int>(), p.parts = parts.data;
    p.part_indices = part_indices.as<int>();
    return launch_pyramid_pool_fwd(p, queue);
}

/// dy has the strides of indices.
Status bwd(Queue queue, const PyramidPoolBins& pyramid, const int& processors, const TensorRef& dy,
           const TensorRef& indices, const TensorRef& dx) {
    auto p = on_map<PyramidPoolBwdParams>(dx, "dx", pyramid, processors);
    expect_dims("dy", dy, 3);
    p.gn = dy.stride[0], p.gc = dy.stride[1], p.gs = dy.stride[2];
    p.dy = dy.data, p.indices = indices.as<const int>(), p.dx = dx.data;
    return launch_pyramid_pool_bwd(p, queue);
}

const Binding binding([](py::module_& m) {
    m.def("pyramid_pool_parts", parts);
    m.def("pyramid_pool_fwd", prepared(bins_of, fwd));
    m.def("pyramid_pool_bwd", prepared(bins_of, bwd));
});

}  // namespace

}  // namespace pk::bindings
