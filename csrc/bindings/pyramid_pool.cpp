// Python's way to pyramid_pool.
#include "pyramid_pool/pyramid_pool.h"

#include <utility>

#include "bindings/arguments.h"

namespace pk::bindings {

namespace {

/// map: N, C, H, W and its strides. pyramid: windowing, whether maxima are taken, multiprocessors, rows and cols of
/// each level.
template <class Params>
Params pool_params(int dtype, const Ints& map, const Ints& pyramid) {
    Params p{};
    p.n = map.at(0), p.c = map.at(1), p.h = map.at(2), p.w = map.at(3);
    p.sn = map.at(4), p.sc = map.at(5), p.sh = map.at(6), p.sw = map.at(7);
    p.pyramid.windows = static_cast<Windows>(pyramid.at(0));
    p.pyramid.max = pyramid.at(1) != 0;
    p.processors = static_cast<int>(pyramid.at(2));
    p.pyramid.levels = static_cast<int>(pyramid.size() - 3) / 2;
    if (p.pyramid.levels > PyramidPoolBins::max_levels) throw std::invalid_argument("at most 8 levels");
    for (int i = 0; i < 2 * p.pyramid.levels; ++i)
        p.pyramid.bins[i / 2][i % 2] = static_cast<int>(pyramid[static_cast<std::size_t>(3 + i)]);
    p.dtype = dtype_of(dtype);
    return p;
}

}  // namespace

void bind_pyramid_pool(py::module_& m) {
    m.def("pyramid_pool_parts", [](int dtype, const Ints& map, const Ints& pyramid) {
        std::int64_t parts = 0;
        const auto params = pool_params<PyramidPoolFwdParams>(dtype, map, pyramid);
        raise_unless_ok(pyramid_pool_parts(params, parts));
        return parts;
    });
    m.def("pyramid_pool_fwd",
          [](int dtype, int device, Address stream, const Ints& map, const Ints& pyramid, const Ints& y_strides,
             Address x, Address y, Address indices, Address parts, Address part_indices) {
              auto p = pool_params<PyramidPoolFwdParams>(dtype, map, pyramid);
              p.yn = y_strides.at(0), p.yc = y_strides.at(1), p.ys = y_strides.at(2);
              p.x = at(x), p.y = at(y), p.indices = static_cast<int*>(at(indices));
              p.parts = at(parts), p.part_indices = static_cast<int*>(at(part_indices));
              raise_unless_ok(launch_pyramid_pool_fwd(p, LaunchOn(device, stream)));
          });
    m.def("pyramid_pool_bwd", [](int dtype, int device, Address stream, const Ints& map, const Ints& pyramid,
                                 const Ints& dy_strides, Address dy, Address indices, Address dx) {
        auto p = pool_params<PyramidPoolBwdParams>(dtype, map, pyramid);
        p.gn = dy_strides.at(0), p.gc = dy_strides.at(1), p.gs = dy_strides.at(2);
        p.dy = at(dy), p.indices = static_cast<const int*>(at(indices)), p.dx = at(dx);
        raise_unless_ok(launch_pyramid_pool_bwd(p, LaunchOn(device, stream)));
    });
}

}  // namespace pk::bindings
