// Python's way to dilated_branches and dilated_branches_train.
#include "dilated_branches/dilated_branches.h"

#include "bindings/arguments.h"
#include "dilated_branches_train/dilated_branches_train.h"

namespace pk::bindings {

using Eps = std::vector<double>;

/// sizes: tf32, n, c, h, w, channels, compute capability times ten. rows, one per branch: output channels, side,
/// dilation, first channel, address of the weight and its strides of o, c and tap, then the address of gain, bias, mean
/// and variance, each with whether it has the call's dtype.
static Branches branches_of(int dtype, const Ints& sizes, const Rows& rows, const Eps& eps) {
    Branches branches{};
    branches.dtype = dtype_of(dtype);
    branches.tf32 = sizes.at(0) != 0;
    branches.map = {static_cast<int>(sizes.at(1)), static_cast<int>(sizes.at(3)), static_cast<int>(sizes.at(4))};
    branches.c = static_cast<int>(sizes.at(2));
    branches.channels = static_cast<int>(sizes.at(5));
    branches.arch = static_cast<int>(sizes.at(6));
    if (rows.size() > MAX_BRANCHES) throw std::invalid_argument("at most 8 branches per launch");
    for (const Ints& row : rows) {
        Branch& branch = branches.branch[branches.count];
        branch.shape = {static_cast<int>(row.at(0)), static_cast<int>(row.at(1)), static_cast<int>(row.at(2))};
        branch.first = static_cast<int>(row.at(3));
        branch.weight = at(static_cast<Address>(row.at(4)));
        branch.w_o = row.at(5), branch.w_c = row.at(6), branch.w_tap = row.at(7);
        ChannelVector* vectors[] = {&branch.norm.gain, &branch.norm.bias, &branch.norm.mean, &branch.norm.var};
        for (std::size_t i = 0; i < 4; ++i)
            *vectors[i] = {at(static_cast<Address>(row.at(8 + 2 * i))), row.at(9 + 2 * i) != 0};
        branch.norm.eps = eps.empty() ? 0 : eps.at(static_cast<std::size_t>(branches.count));
        ++branches.count;
    }
    return branches;
}

static void bind_train(py::module_& m) {
    m.def("dilated_branches_train_stats",
          [](int dtype, int device, Address stream, Address part, Address mean, Address var, int tiles, int channels) {
              const DilatedBranchesStatsParams params{static_cast<float*>(at(part)), static_cast<float*>(at(mean)),
                                                      static_cast<float*>(at(var)), tiles, channels};
              raise_unless_ok(launch_dilated_branches_train_stats(params, dtype_of(dtype), LaunchOn(device, stream)));
          });
    m.def("dilated_branches_train_normalise",
          [](int dtype, int device, Address stream, const Ints& sizes, const Rows& rows, const Eps& eps, Address z,
             const Ints& y, bool relu) {
              const Map out(y);
              raise_unless_ok(launch_dilated_branches_train_normalise(
                  {branches_of(dtype, sizes, rows, eps), at(z), out.at, out.n, out.c, out.h, out.w, relu, {}},
                  LaunchOn(device, stream)));
          });
}

static void bind_backward(py::module_& m) {
    m.def("dilated_branches_bwd_dz",
          [](int dtype, int device, Address stream, const Ints& sizes, const Rows& rows, const Eps& eps, const Ints& dy,
             const Ints& saved, Address sums, Address dz, Address part, bool relu, bool sum, bool kept) {
              const Map d(dy), s(saved);
              raise_unless_ok(launch_dilated_branches_bwd_dz({branches_of(dtype, sizes, rows, eps),
                                                              d.at,
                                                              d.n,
                                                              d.c,
                                                              d.h,
                                                              d.w,
                                                              s.at,
                                                              s.n,
                                                              s.c,
                                                              s.h,
                                                              s.w,
                                                              static_cast<float*>(at(sums)),
                                                              at(dz),
                                                              static_cast<float*>(at(part)),
                                                              relu,
                                                              sum,
                                                              kept,
                                                              {}},
                                                             LaunchOn(device, stream)));
          });
    m.def("dilated_branches_bwd_sums", [](int, int device, Address stream, Address part, Address sums, int tiles,
                                          int length) {
        raise_unless_ok(launch_dilated_branches_bwd_sums(
            {static_cast<float*>(at(part)), static_cast<float*>(at(sums)), tiles, length}, LaunchOn(device, stream)));
    });
    m.def("dilated_branches_bwd_dimage",
          [](int dtype, int device, Address stream, const Ints& shape, const Ints& dz, Address dimage) {
              int v[6];
              fill(v, shape, "sizes");
              const Map d(dz);
              raise_unless_ok(launch_dilated_branches_bwd_dimage(
                  {dtype_of(dtype), {v[0], v[1], v[2]}, {v[3], v[4], v[5]}, d.at, d.n, d.h, d.w, at(dimage)},
                  LaunchOn(device, stream)));
          });
    m.def("dilated_branches_bwd_dx", [](int dtype, int device, Address stream, const Ints& sizes, const Rows& rows,
                                        const Eps& eps, const Ints& dz, const Ints& dx) {
        const Map d(dz), out(dx);
        raise_unless_ok(launch_dilated_branches_bwd_dx(
            {branches_of(dtype, sizes, rows, eps), d.at, d.n, d.h, d.w, out.at, out.n, out.c, out.h, out.w, {}},
            LaunchOn(device, stream)));
    });
    m.def("dilated_branches_bwd_dw", [](int dtype, int device, Address stream, const Ints& sizes, const Rows& rows,
                                        const Eps& eps, const Ints& dz, const Ints& x, Address part, int splits) {
        const Map d(dz), in(x);
        DilatedBranchesBwdDwParams params{
            branches_of(dtype, sizes, rows, eps), d.at,   d.n, d.h, d.w, in.at, in.n, in.h, in.w,
            static_cast<float*>(at(part)),        splits, {},  {},  0};
        raise_unless_ok(launch_dilated_branches_bwd_dw(params, LaunchOn(device, stream)));
    });
}

void bind_dilated_branches(py::module_& m) {
    m.attr("dilated_branches_scratch") = branches_scratch_bytes;
    m.def("dilated_branches_pixel_tiles", [](int n, int h, int w) {
        Branches branches{};
        branches.map = {n, h, w};
        return branches_pixel_tiles(branches);
    });
    m.def("dilated_branches_fwd", [](int dtype, int device, Address stream, const Ints& sizes, const Rows& rows,
                                     const Eps& eps, const Ints& x, Address image_bias, const Ints& y, Address z,
                                     Address part, bool relu, bool sum, Address scratch, int blocks) {
        const Map in(x), out(y);
        DilatedBranchesFwdParams params{};
        params.branches = branches_of(dtype, sizes, rows, eps);
        params.x = in.at, params.x_n = in.n, params.x_h = in.h, params.x_w = in.w;
        params.image_bias = at(image_bias);
        params.y = out.at, params.y_n = out.n, params.y_c = out.c, params.y_h = out.h, params.y_w = out.w;
        params.z = at(z);
        params.part = static_cast<float*>(at(part));
        params.relu = relu, params.sum = sum;
        params.scratch = at(scratch), params.blocks = blocks;
        raise_unless_ok(launch_dilated_branches_fwd(params, LaunchOn(device, stream)));
    });
    m.def("dilated_branches_plan", [](int dtype, int, Address, const Ints& sizes, const Rows& rows, const Eps& eps,
                                      const Ints& x, bool sum, int blocks) {
        const Map in(x);
        DilatedBranchesFwdParams params{};
        params.branches = branches_of(dtype, sizes, rows, eps);
        params.x = in.at, params.x_n = in.n, params.x_h = in.h, params.x_w = in.w;
        params.sum = sum, params.blocks = blocks;
        BranchesPlan plan{};
        raise_unless_ok(plan_dilated_branches_fwd(params, plan));
        using namespace py::literals;
        return py::dict("sm90"_a = int{plan.sm90}, "n"_a = plan.tile.n, "h"_a = plan.tile.h, "w"_a = plan.tile.w,
                        "columns"_a = plan.cols, "depth"_a = plan.depth, "pair"_a = plan.pair,
                        "workers"_a = plan.workers, "steps"_a = plan.steps, "dense"_a = plan.dense,
                        "largest"_a = plan.largest, "cuts"_a = plan.cuts);
    });
    bind_backward(m);
    bind_train(m);
}

}  // namespace pk::bindings
