// Python's way to max_pool_pyramid.
#include "max_pool_pyramid/max_pool_pyramid.h"

#include "bindings/arguments.h"

namespace pk::bindings {

namespace {

/// map: N, C, H, W of x, and the strides of x or dy. how: cascade, descending, channels_last, multiprocessors.
MaxPoolPyramidProblem pool_problem(int dtype, const Ints& map, const Ints& sizes, const Ints& how) {
    MaxPoolPyramidProblem p{};
    p.n = map.at(0), p.c = map.at(1), p.h = map.at(2), p.w = map.at(3);
    for (std::size_t i = 0; i < 4; ++i) p.strides[i] = map.at(4 + i);
    p.pools.levels = fill(p.pools.size, sizes, "levels");
    p.pools.cascade = how.at(0) != 0, p.pools.descending = how.at(1) != 0;
    p.channels_last = how.at(2) != 0;
    p.processors = static_cast<int>(how.at(3));
    p.dtype = dtype_of(dtype);
    return p;
}

}  // namespace

void bind_max_pool_pyramid(py::module_& m) {
    m.def("max_pool_pyramid_fwd", [](int dtype, int device, Address stream, const Ints& map, const Ints& sizes,
                                     const Ints& how, Address x, Address y, Address indices) {
        const MaxPoolPyramidFwdParams p{pool_problem(dtype, map, sizes, how), at(x), at(y),
                                        static_cast<std::uint8_t*>(at(indices))};
        raise_unless_ok(launch_max_pool_pyramid_fwd(p, LaunchOn(device, stream)));
    });
    m.def("max_pool_pyramid_bwd", [](int dtype, int device, Address stream, const Ints& map, const Ints& sizes,
                                     const Ints& how, Address dy, Address indices, Address dx) {
        const MaxPoolPyramidBwdParams p{pool_problem(dtype, map, sizes, how), at(dy),
                                        static_cast<const std::uint8_t*>(at(indices)), at(dx)};
        raise_unless_ok(launch_max_pool_pyramid_bwd(p, LaunchOn(device, stream)));
    });
}

}  // namespace pk::bindings
