// Python bindings of dilated_branches and dilated_branches_train.
#include "dilated_branches/dilated_branches.h"

#include "bindings/call.h"
#include "dilated_branches_train/dilated_branches_train.h"

namespace pk::bindings {

namespace {

struct BranchSettings {
    std::vector<int> dilations;
    std::vector<double> eps;
    bool relu, merged, saved;
};

BranchSettings read_settings(py::handle settings) {
    return {field<std::vector<int>>(settings, "dilations"), field<std::vector<double>>(settings, "eps"),
            field<bool>(settings, "relu"), field<bool>(settings, "merged"), field<bool>(settings, "saved")};
}

Extent extent_of(const TensorRef& map) {
    return {static_cast<int>(map.size[0]), static_cast<int>(map.size[2]), static_cast<int>(map.size[3])};
}

/// Branches of the weights (O, C, k, k) over the pixels of `map`.
Branches branches_of(const BranchSettings& settings, const TensorRefs& weights, const char* name,
                     const TensorRef& map) {
    if (weights.empty() || weights.size() > MAX_BRANCHES) throw std::invalid_argument("1 to 8 branches per launch");
    Branches branches{};
    branches.dtype = dtype_of(name, map), branches.map = extent_of(expect_dims(name, map, 4));
    branches.c = static_cast<int>(weights[0].size[1]);
    for (const TensorRef& weight : weights) {
        Branch& branch = branches.branch[branches.count];
        const std::int64_t side = weight.size[2];
        expect("a weight", weight, {weight.size[0], branches.c, side, side});
        branch.shape = {static_cast<int>(weight.size[0]), static_cast<int>(side),
                        settings.dilations.at(static_cast<std::size_t>(branches.count++))};
        branch.first = branches.channels;
        branch.weight = weight.data;
        branch.w_o = weight.stride[0], branch.w_c = weight.stride[1], branch.w_tap = weight.stride[3];
        branches.channels += branch.shape.o;
    }
    return branches;
}

/// The same for products with `dz`, whose channels are one branch's, and so every branch's, behind a sum.
Branches products_with(const TensorRef& dz, const BranchSettings& settings, bool tf32, int arch,
                       const TensorRefs& weights, const char* name, const TensorRef& map) {
    Branches branches = branches_of(settings, weights, name, map);
    branches.tf32 = tf32, branches.arch = arch;
    const bool shared = settings.merged && dz.size[1] == branches.branch[0].shape.o;
    expect("dz", dz, {map.size[0], shared ? dz.size[1] : branches.channels, map.size[2], map.size[3]});
    for (Branch& branch : branches.branch) branch.first *= !shared;
    return branches;
}

/// affine: gain, bias, mean and variance of every branch.
void add_norms(Branches& branches, const BranchSettings& settings, const TensorRefs& affine, const TensorRef& like) {
    for (std::size_t b = 0; b < settings.dilations.size(); ++b)
        branches.branch[b].norm = norm_of(affine.at(4 * b), affine.at(4 * b + 1), affine.at(4 * b + 2),
                                          affine.at(4 * b + 3), settings.eps.at(b), branches.branch[b].shape.o, like);
}

DilatedBranchesFwdParams forward_of(const BranchSettings& settings, bool tf32, int arch, int blocks, const TensorRef& x,
                                    const TensorRefs& weights) {
    DilatedBranchesFwdParams p{};
    p.branches = branches_of(settings, weights, "x", x);
    p.branches.tf32 = tf32, p.branches.arch = arch;
    expect("x", x, {x.size[0], p.branches.c, x.size[2], x.size[3]});
    p.x = x.data, p.x_n = x.stride[0], p.x_h = x.stride[2], p.x_w = x.stride[3];
    p.relu = settings.relu, p.sum = settings.merged, p.blocks = blocks;
    return p;
}

py::dict plan(py::handle settings, bool tf32, int arch, int blocks, const TensorRef& x, const TensorRefs& weights) {
    BranchesPlan plan{};
    raise_unless_ok(
        plan_dilated_branches_fwd(forward_of(read_settings(settings), tf32, arch, blocks, x, weights), plan));
    using namespace py::literals;
    return py::dict("sm90"_a = int{plan.sm90}, "n"_a = plan.tile.n, "h"_a = plan.tile.h, "w"_a = plan.tile.w,
                    "columns"_a = plan.cols, "depth"_a = plan.depth, "pair"_a = plan.pair, "workers"_a = plan.workers,
                    "steps"_a = plan.steps, "dense"_a = plan.dense, "largest"_a = plan.largest, "cuts"_a = plan.cuts);
}

int pixel_tiles(const TensorRef& map) {
    Branches branches{};
    branches.map = extent_of(expect_dims("z", map, 4));
    return branches_pixel_tiles(branches);
}

Status fwd(Queue queue, const BranchSettings& settings, const bool& tf32, const int& arch, const int& blocks,
           const TensorRef& x, const TensorRefs& weights, const TensorRefs& affine, const TensorRef& image_bias,
           const TensorRef& y, const TensorRef& z, const TensorRef& part, const TensorRef& scratch) {
    auto p = forward_of(settings, tf32, arch, blocks, x, weights);
    add_norms(p.branches, settings, affine, x);
    const BranchShape& shape = p.branches.branch[0].shape;
    if (image_bias.given) expect("image_bias", image_bias, {x.size[0], shape.o, shape.side * shape.side});
    p.image_bias = image_bias.data;
    p.y = y.data, p.y_n = y.stride[0], p.y_c = y.stride[1], p.y_h = y.stride[2], p.y_w = y.stride[3];
    p.z = z.data, p.part = part.as<float>(), p.scratch = scratch.data;
    return launch_dilated_branches_fwd(p, queue);
}

Status bwd_dz(Queue queue, const BranchSettings& settings, const TensorRef& dy, const TensorRef& saved,
              const TensorRefs& weights, const TensorRefs& affine, const TensorRef& sums, const TensorRef& dz,
              const TensorRef& part) {
    DilatedBranchesBwdDzParams p{};
    p.branches = branches_of(settings, weights, "dy", dy);
    add_norms(p.branches, settings, affine, dy);
    p.dy = dy.data, p.dy_n = dy.stride[0], p.dy_c = dy.stride[1], p.dy_h = dy.stride[2], p.dy_w = dy.stride[3];
    p.saved = settings.relu || settings.saved ? saved.data : nullptr;
    p.s_n = saved.stride[0], p.s_c = saved.stride[1], p.s_h = saved.stride[2], p.s_w = saved.stride[3];
    p.sums = sums.as<float>(), p.dz = dz.data, p.part = part.as<float>();
    p.relu = settings.relu, p.sum = settings.merged, p.kept = settings.saved;
    return launch_dilated_branches_bwd_dz(p, queue);
}

Status bwd_sums(Queue queue, const TensorRef& part, const TensorRef& sums) {
    expect("part", part, {part.size[0], sums.size[0], sums.size[1]});
    return launch_dilated_branches_bwd_sums({part.as<float>(), sums.as<float>(), static_cast<int>(part.size[0]),
                                             static_cast<int>(sums.size[0] * sums.size[1])},
                                            queue);
}

Status bwd_dimage(Queue queue, const int& dilation, const TensorRef& dz, const TensorRef& dimage) {
    const int side = dimage.size[2] == 1 ? 1 : 3, o = static_cast<int>(dimage.size[1]);
    expect("dimage", dimage, {dz.size[0], dz.size[1], side * side});
    return launch_dilated_branches_bwd_dimage({dtype_of("dz", dz),
                                               extent_of(expect_dims("dz", dz, 4)),
                                               {o, side, dilation},
                                               dz.data,
                                               dz.stride[0],
                                               dz.stride[2],
                                               dz.stride[3],
                                               dimage.data},
                                              queue);
}

Status bwd_dx(Queue queue, const BranchSettings& settings, const bool& tf32, const int& arch, const int& blocks,
              const TensorRef& dz, const TensorRefs& weights, const TensorRef& dx) {
    DilatedBranchesBwdDxParams p{};
    p.branches = products_with(dz, settings, tf32, arch, weights, "dx", dx);
    p.dz = dz.data, p.dz_n = dz.stride[0], p.dz_h = dz.stride[2], p.dz_w = dz.stride[3];
    p.dx = dx.data, p.dx_n = dx.stride[0], p.dx_c = dx.stride[1], p.dx_h = dx.stride[2], p.dx_w = dx.stride[3];
    p.blocks = blocks;
    return launch_dilated_branches_bwd_dx(p, queue);
}

Status bwd_dw(Queue queue, const BranchSettings& settings, const bool& tf32, const int& arch, const int& blocks,
              const int& splits, const TensorRef& dz, const TensorRef& x, const TensorRefs& dweights,
              const TensorRef& part) {
    DilatedBranchesBwdDwParams p{};
    p.branches = products_with(dz, settings, tf32, arch, dweights, "x", x);
    p.dz = dz.data, p.dz_n = dz.stride[0], p.dz_h = dz.stride[2], p.dz_w = dz.stride[3];
    p.x = x.data, p.x_n = x.stride[0], p.x_h = x.stride[2], p.x_w = x.stride[3];
    p.part = part.as<float>(), p.splits = splits, p.blocks = blocks;
    return launch_dilated_branches_bwd_dw(p, queue);
}

Status train_stats(Queue queue, const TensorRef& part, const TensorRef& mean, const TensorRef& var,
                   const TensorRef& z) {
    const std::int64_t tiles = part.size[0], channels = z.size[1];
    expect("part", part, {tiles, 3, channels});
    return launch_dilated_branches_train_stats(
        {part.as<float>(), mean.as<float>(), var.as<float>(), static_cast<int>(tiles), static_cast<int>(channels)},
        dtype_of("z", z), queue);
}

Status train_normalise(Queue queue, const BranchSettings& settings, const TensorRef& z, const TensorRefs& weights,
                       const TensorRefs& affine, const TensorRef& y) {
    DilatedBranchesNormaliseParams p{};
    p.branches = branches_of(settings, weights, "z", z);
    add_norms(p.branches, settings, affine, z);
    p.z = z.data, p.relu = settings.relu;
    p.y = y.data, p.y_n = y.stride[0], p.y_c = y.stride[1], p.y_h = y.stride[2], p.y_w = y.stride[3];
    return launch_dilated_branches_train_normalise(p, queue);
}

const Binding binding([](py::module_& m) {
    m.attr("dilated_branches_scratch") = branches_scratch_bytes;
    m.def("dilated_branches_pixel_tiles", pixel_tiles);
    m.def("dilated_branches_plan", plan);
    m.def("dilated_branches_fwd", prepared(read_settings, fwd));
    m.def("dilated_branches_bwd_dz", prepared(read_settings, bwd_dz));
    m.def("dilated_branches_bwd_sums", prepared(bwd_sums));
    m.def("dilated_branches_bwd_dimage", prepared(bwd_dimage));
    m.def("dilated_branches_bwd_dx", prepared(read_settings, bwd_dx));
    m.def("dilated_branches_bwd_dw", prepared(read_settings, bwd_dw));
    m.def("dilated_branches_train_stats", prepared(train_stats));
    m.def("dilated_branches_train_normalise", prepared(read_settings, train_normalise));
});

}  // namespace

}  // namespace pk::bindings
