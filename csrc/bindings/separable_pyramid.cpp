// Python's way to separable_pyramid.
#include "separable_pyramid/separable_pyramid.h"

#include "bindings/arguments.h"

namespace pk::bindings {

namespace {

/// sizes: n, c. levels: rows, columns, address and strides (channel, row, column) of the weight.
SeparablePyramid pyramid_of(int dtype, const Ints& sizes, const Rows& levels) {
    SeparablePyramid pyramid{};
    pyramid.dtype = dtype_of(dtype);
    pyramid.n = static_cast<int>(sizes.at(0));
    pyramid.c = static_cast<int>(sizes.at(1));
    if (levels.size() > max_separable_levels) throw std::invalid_argument("at most 8 levels per launch");
    for (const Ints& given : levels) {
        SeparableLevel& level = pyramid.level[pyramid.levels++];
        level.rows = static_cast<int>(given.at(0));
        level.cols = static_cast<int>(given.at(1));
        level.first_cell = pyramid.cells;
        level.weight = at(static_cast<Address>(given.at(2)));
        level.w_c = given.at(3);
        level.w_row = given.at(4);
        level.w_col = given.at(5);
        pyramid.cells += level.rows * level.cols;
    }
    return pyramid;
}

}  // namespace

void bind_separable_pyramid(py::module_& m) {
    m.def("separable_pyramid_depthwise", [](int dtype, int device, Address stream, const Ints& sizes,
                                            const Rows& levels, const Ints& x, const Ints& y, bool turned) {
        const Cells in(x), out(y);
        raise_unless_ok(launch_separable_pyramid_depthwise(
            {pyramid_of(dtype, sizes, levels), in.at, in.n, in.c, in.s, out.at, out.n, out.c, out.s, turned},
            LaunchOn(device, stream)));
    });
    m.def("separable_pyramid_bwd_ddepthwise", [](int dtype, int device, Address stream, const Ints& sizes,
                                                 const Rows& levels, const Ints& dy, const Ints& x) {
        const Cells gradient(dy), in(x);
        raise_unless_ok(
            launch_separable_pyramid_bwd_ddepthwise({pyramid_of(dtype, sizes, levels), gradient.at, gradient.n,
                                                     gradient.c, gradient.s, in.at, in.n, in.c, in.s},
                                                    LaunchOn(device, stream)));
    });
}

}  // namespace pk::bindings
