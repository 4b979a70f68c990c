// The Python module: plain integers in, an exception out. The same file is `_cuda` and, over the host simulator,
// `_hostsim`; Python allocates, fills the sizes and strides, and names the device and stream.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/observe.h"
#include "common/queue.h"
#include "pyramid_pool/pyramid_pool.h"
#include "pyramid_project/pyramid_project.h"
#include "upsample_merge/upsample_merge.h"

namespace py = pybind11;

namespace {

using Address = std::uintptr_t;
using Ints = std::vector<std::int64_t>;

void* at(Address address) { return reinterpret_cast<void*>(address); }

pk::Dtype dtype_of(int code) {
    if (!pk::is_dtype(code)) throw std::invalid_argument("dtype must be 0 to 3, got " + std::to_string(code));
    return static_cast<pk::Dtype>(code);
}

/// Copy `from` into the front of the array `to`; returns how many there are.
template <class I, std::size_t Most>
int fill(I (&to)[Most], const Ints& from, const char* what) {
    if (from.size() > Most)
        throw std::invalid_argument(std::string("at most ") + std::to_string(Most) + " " + what + ", got " +
                                    std::to_string(from.size()));
    for (std::size_t i = 0; i < from.size(); ++i) to[i] = static_cast<I>(from[i]);
    return static_cast<int>(from.size());
}

void raise_unless_ok(const pk::Status& status) {
    if (!status.ok()) throw std::runtime_error(status.error);
}

/// map: N, C, H, W and its strides. pyramid: windowing, whether maxima are taken, multiprocessors, rows and cols of
/// each level.
template <class Params>
Params pool_params(int dtype, const Ints& map, const Ints& pyramid) {
    Params p{};
    p.n = map.at(0), p.c = map.at(1), p.h = map.at(2), p.w = map.at(3);
    p.sn = map.at(4), p.sc = map.at(5), p.sh = map.at(6), p.sw = map.at(7);
    p.pyramid.windows = static_cast<pk::Windows>(pyramid.at(0));
    p.pyramid.max = pyramid.at(1) != 0;
    p.processors = static_cast<int>(pyramid.at(2));
    p.pyramid.levels = static_cast<int>(pyramid.size() - 3) / 2;
    if (p.pyramid.levels > pk::PyramidPoolBins::max_levels) throw std::invalid_argument("at most 8 levels");
    for (int i = 0; i < 2 * p.pyramid.levels; ++i)
        p.pyramid.bins[i / 2][i % 2] = static_cast<int>(pyramid[static_cast<std::size_t>(3 + i)]);
    p.dtype = dtype_of(dtype);
    return p;
}

void bind_pyramid_pool(py::module_& m) {
    m.def("pyramid_pool_parts", [](int dtype, const Ints& map, const Ints& pyramid) {
        std::int64_t parts = 0;
        const auto params = pool_params<pk::PyramidPoolFwdParams>(dtype, map, pyramid);
        raise_unless_ok(pk::pyramid_pool_parts(params, parts));
        return parts;
    });
    m.def("pyramid_pool_fwd",
          [](int dtype, int device, Address stream, const Ints& map, const Ints& pyramid, const Ints& y_strides,
             Address x, Address y, Address indices, Address parts, Address part_indices) {
              auto p = pool_params<pk::PyramidPoolFwdParams>(dtype, map, pyramid);
              p.yn = y_strides.at(0), p.yc = y_strides.at(1), p.ys = y_strides.at(2);
              p.x = at(x), p.y = at(y), p.indices = static_cast<int*>(at(indices));
              p.parts = at(parts), p.part_indices = static_cast<int*>(at(part_indices));
              raise_unless_ok(pk::launch_pyramid_pool_fwd(p, {device, at(stream)}));
          });
    m.def("pyramid_pool_bwd", [](int dtype, int device, Address stream, const Ints& map, const Ints& pyramid,
                                 const Ints& dy_strides, Address dy, Address indices, Address dx) {
        auto p = pool_params<pk::PyramidPoolBwdParams>(dtype, map, pyramid);
        p.gn = dy_strides.at(0), p.gc = dy_strides.at(1), p.gs = dy_strides.at(2);
        p.dy = at(dy), p.indices = static_cast<const int*>(at(indices)), p.dx = at(dx);
        raise_unless_ok(pk::launch_pyramid_pool_bwd(p, {device, at(stream)}));
    });
}

/// Address and strides of an (N, C, S) tensor.
struct Cells {
    void* at;
    std::int64_t n, c, s;
    explicit Cells(const Ints& v) : at(::at(static_cast<Address>(v.at(0)))), n(v.at(1)), c(v.at(2)), s(v.at(3)) {}
};

/// sizes: tf32, n, c, full. levels: cells, channels, address and strides of the weight, then of gain, bias, mean and
/// variance, as far as they are given, the address and whether they have the call's dtype.
pk::ProjectPyramid pyramid_of(int dtype, const Ints& sizes, const std::vector<Ints>& levels,
                              const std::vector<double>& eps) {
    pk::ProjectPyramid pyramid{};
    pyramid.dtype = dtype_of(dtype);
    pyramid.tf32 = sizes.at(0) != 0;
    pyramid.n = static_cast<int>(sizes.at(1));
    pyramid.c = static_cast<int>(sizes.at(2));
    pyramid.full = static_cast<int>(sizes.at(3));
    if (levels.size() > pk::max_project_levels) throw std::invalid_argument("at most 8 levels per launch");
    int cell = 0, channel = 0;
    for (const Ints& given : levels) {
        pk::ProjectLevel& level = pyramid.level[pyramid.levels];
        level.cells = static_cast<int>(given.at(0));
        level.channels = static_cast<int>(given.at(1));
        level.first_cell = std::exchange(cell, cell + level.cells);
        level.first_channel = std::exchange(channel, channel + level.channels);
        level.weight = at(static_cast<Address>(given.at(2)));
        level.w_o = given.at(3);
        level.w_c = given.at(4);
        pk::ProjectVector* vectors[] = {&level.gain, &level.bias, &level.mean, &level.var};
        for (std::size_t i = 0; i < 4 && 5 + 2 * i < given.size(); ++i)
            *vectors[i] = {at(static_cast<Address>(given[5 + 2 * i])), given.at(6 + 2 * i) != 0};
        level.eps = eps.empty() ? 0 : eps.at(static_cast<std::size_t>(pyramid.levels));
        ++pyramid.levels;
    }
    return pyramid;
}

void bind_pyramid_project(py::module_& m) {
    using Levels = std::vector<Ints>;
    using Eps = std::vector<double>;
    m.def("pyramid_project_fwd", [](int dtype, int device, Address stream, const Ints& sizes, const Levels& levels,
                                    const Eps& eps, const Ints& pooled, const Ints& y, Address z) {
        const Cells in(pooled), out(y);
        raise_unless_ok(pk::launch_pyramid_project_fwd({pyramid_of(dtype, sizes, levels, eps), in.at, in.n, in.c, in.s,
                                                        out.at, at(z), out.n, out.c, out.s, sizes.at(4) != 0},
                                                       {device, at(stream)}));
    });
    m.def("pyramid_project_bwd_dz",
          [](int dtype, int device, Address stream, const Ints& sizes, const Levels& levels, const Eps& eps,
             const Ints& dy, Address dz, const Ints& saved, Address y, Address z, Address sums, std::int64_t row) {
              const Cells in(dy), strides(saved);
              raise_unless_ok(pk::launch_pyramid_project_bwd_dz(
                  {pyramid_of(dtype, sizes, levels, eps), in.at, at(dz), in.n, in.c, in.s, at(y), at(z), strides.n,
                   strides.c, strides.s, at(sums), row},
                  {device, at(stream)}));
          });
    m.def("pyramid_project_bwd_dpooled", [](int dtype, int device, Address stream, const Ints& sizes,
                                            const Levels& levels, const Eps& eps, const Ints& dz, const Ints& dpooled) {
        const Cells in(dz), out(dpooled);
        raise_unless_ok(pk::launch_pyramid_project_bwd_dpooled(
            {pyramid_of(dtype, sizes, levels, eps), in.at, in.n, in.c, in.s, out.at, out.n, out.c, out.s},
            {device, at(stream)}));
    });
    m.def("pyramid_project_bwd_dweights", [](int dtype, int device, Address stream, const Ints& sizes,
                                             const Levels& levels, const Eps& eps, const Ints& dz, const Ints& pooled) {
        const Cells a(dz), b(pooled);
        raise_unless_ok(pk::launch_pyramid_project_bwd_dweights(
            {pyramid_of(dtype, sizes, levels, eps), a.at, a.n, a.c, a.s, b.at, b.n, b.c, b.s}, {device, at(stream)}));
    });
}

/// shape (n, c, h, w) of the output; maps: address, c, h, w, first output channel and four strides each.
pk::UpsampleMergeProblem upsample_merge_problem(int dtype, const Ints& shape, bool channels_last, int how, bool sum,
                                                const std::vector<Ints>& maps) {
    pk::UpsampleMergeProblem p{dtype_of(dtype), 0, 0, 0, 0, channels_last, static_cast<pk::Resample>(how), sum, 0, {}};
    int sizes[4];
    fill(sizes, shape, "sizes");
    p.n = sizes[0], p.c = sizes[1], p.h = sizes[2], p.w = sizes[3];
    if (maps.size() > pk::upsample_merge_maps)
        throw std::invalid_argument("at most " + std::to_string(pk::upsample_merge_maps) + " maps, got " +
                                    std::to_string(maps.size()));
    for (const Ints& m : maps) {
        pk::UpsampleMergeMap& map = p.maps[p.count++];
        map = {at(m.at(0)),
               static_cast<int>(m.at(1)),
               static_cast<int>(m.at(2)),
               static_cast<int>(m.at(3)),
               static_cast<int>(m.at(4)),
               {m.at(5), m.at(6), m.at(7), m.at(8)}};
    }
    return p;
}

void bind_upsample_merge(py::module_& m) {
    m.def("upsample_merge_fwd", [](int dtype, int device, Address stream, const Ints& shape, bool channels_last,
                                   int how, bool sum, const std::vector<Ints>& maps, Address scale, bool scale_is_t,
                                   Address shift, bool shift_is_t, bool relu, Address y) {
        const pk::UpsampleMergeFwdParams params{upsample_merge_problem(dtype, shape, channels_last, how, sum, maps),
                                                at(scale),
                                                at(shift),
                                                scale_is_t,
                                                shift_is_t,
                                                relu,
                                                at(y)};
        raise_unless_ok(pk::launch_upsample_merge_fwd(params, {device, at(stream)}));
    });
    m.def("upsample_merge_bwd_dmaps", [](int dtype, int device, Address stream, const Ints& shape, bool channels_last,
                                         int how, bool sum, const std::vector<Ints>& dmaps, Address dy, Address y,
                                         Address scale, bool scale_is_t) {
        const pk::UpsampleMergeBwdMapsParams params{
            upsample_merge_problem(dtype, shape, channels_last, how, sum, dmaps), at(dy), at(y), at(scale), scale_is_t};
        raise_unless_ok(pk::launch_upsample_merge_bwd_dmaps(params, {device, at(stream)}));
    });
    m.def("upsample_merge_bwd_affine",
          [](int dtype, int device, Address stream, const Ints& shape, bool channels_last, int how, bool sum,
             const std::vector<Ints>& maps, Address dy, Address y, int parts, Address part) {
              const pk::UpsampleMergeBwdAffineParams params{
                  upsample_merge_problem(dtype, shape, channels_last, how, sum, maps), at(dy), at(y), parts, at(part)};
              raise_unless_ok(pk::launch_upsample_merge_bwd_affine(params, {device, at(stream)}));
          });
    m.def("upsample_merge_sums",
          [](int dtype, int device, Address stream, int rows, int parts, int c, Address part, Address sums) {
              const pk::UpsampleMergeSumsParams params{dtype_of(dtype), rows, parts, c, at(part), at(sums)};
              raise_unless_ok(pk::launch_upsample_merge_sums(params, {device, at(stream)}));
          });
}

}  // namespace

PYBIND11_MODULE(PK_MODULE_NAME, m, py::mod_gil_not_used()) {
    m.doc() = "Launchers of pyramid_kernels; arguments are sizes, strides in elements and addresses.";
    m.attr("architectures") = pk::architectures();
    m.def("listen", [](bool on) { pk::launch_log.listen(on); });
    m.def("take_launches", [] {
        py::list launches;
        for (const auto& [kernel, dtype] : pk::launch_log.take())
            launches.append(py::make_tuple(kernel, pk::name_of(dtype)));
        return launches;
    });
    bind_pyramid_pool(m);
    bind_pyramid_project(m);
    bind_upsample_merge(m);
}
