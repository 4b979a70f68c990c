// Python's way to pyramid_project.
#include "pyramid_project/pyramid_project.h"

#include <utility>

#include "bindings/arguments.h"

namespace pk::bindings {

namespace {

/// sizes: tf32, n, c, full. levels: cells, channels, address and strides of the weight, then of gain, bias, mean and
/// variance, as far as they are given, the address and whether they have the call's dtype.
ProjectPyramid pyramid_of(int dtype, const Ints& sizes, const std::vector<Ints>& levels,
                          const std::vector<double>& eps) {
    ProjectPyramid pyramid{};
    pyramid.dtype = dtype_of(dtype);
    pyramid.tf32 = sizes.at(0) != 0;
    pyramid.n = static_cast<int>(sizes.at(1));
    pyramid.c = static_cast<int>(sizes.at(2));
    pyramid.full = static_cast<int>(sizes.at(3));
    if (levels.size() > max_project_levels) throw std::invalid_argument("at most 8 levels per launch");
    int cell = 0, channel = 0;
    for (const Ints& given : levels) {
        ProjectLevel& level = pyramid.level[pyramid.levels];
        level.cells = static_cast<int>(given.at(0));
        level.channels = static_cast<int>(given.at(1));
        level.first_cell = std::exchange(cell, cell + level.cells);
        level.first_channel = std::exchange(channel, channel + level.channels);
        level.weight = at(static_cast<Address>(given.at(2)));
        level.w_o = given.at(3);
        level.w_c = given.at(4);
        ChannelVector* vectors[] = {&level.norm.gain, &level.norm.bias, &level.norm.mean, &level.norm.var};
        for (std::size_t i = 0; i < 4 && 5 + 2 * i < given.size(); ++i)
            *vectors[i] = {at(static_cast<Address>(given[5 + 2 * i])), given.at(6 + 2 * i) != 0};
        level.norm.eps = eps.empty() ? 0 : eps.at(static_cast<std::size_t>(pyramid.levels));
        ++pyramid.levels;
    }
    return pyramid;
}

}  // namespace

void bind_pyramid_project(py::module_& m) {
    using Levels = std::vector<Ints>;
    using Eps = std::vector<double>;
    m.def("pyramid_project_fwd", [](int dtype, int device, Address stream, const Ints& sizes, const Levels& levels,
                                    const Eps& eps, const Ints& pooled, const Ints& y, Address z) {
        const Cells in(pooled), out(y);
        raise_unless_ok(launch_pyramid_project_fwd({pyramid_of(dtype, sizes, levels, eps), in.at, in.n, in.c, in.s,
                                                    out.at, at(z), out.n, out.c, out.s, sizes.at(4) != 0},
                                                   LaunchOn(device, stream)));
    });
    m.def("pyramid_project_bwd_dz",
          [](int dtype, int device, Address stream, const Ints& sizes, const Levels& levels, const Eps& eps,
             const Ints& dy, Address dz, const Ints& saved, Address y, Address z, Address sums, std::int64_t row) {
              const Cells in(dy), strides(saved);
              raise_unless_ok(
                  launch_pyramid_project_bwd_dz({pyramid_of(dtype, sizes, levels, eps), in.at, at(dz), in.n, in.c, in.s,
                                                 at(y), at(z), strides.n, strides.c, strides.s, at(sums), row},
                                                LaunchOn(device, stream)));
          });
    m.def("pyramid_project_bwd_dpooled", [](int dtype, int device, Address stream, const Ints& sizes,
                                            const Levels& levels, const Eps& eps, const Ints& dz, const Ints& dpooled) {
        const Cells in(dz), out(dpooled);
        raise_unless_ok(launch_pyramid_project_bwd_dpooled(
            {pyramid_of(dtype, sizes, levels, eps), in.at, in.n, in.c, in.s, out.at, out.n, out.c, out.s},
            LaunchOn(device, stream)));
    });
    m.def("pyramid_project_bwd_dweights", [](int dtype, int device, Address stream, const Ints& sizes,
                                             const Levels& levels, const Eps& eps, const Ints& dz, const Ints& pooled) {
        const Cells a(dz), b(pooled);
        raise_unless_ok(launch_pyramid_project_bwd_dweights(
            {pyramid_of(dtype, sizes, levels, eps), a.at, a.n, a.c, a.s, b.at, b.n, b.c, b.s},
            LaunchOn(device, stream)));
    });
}

}  // namespace pk::bindings
