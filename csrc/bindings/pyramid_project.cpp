// Python bindings of pyramid_project.
#include "pyramid_project/pyramid_project.h"

#include "bindings/call.h"
#include "bindings/norm.h"

namespace pk::bindings {

namespace {

struct ProjectSettings {
    std::vector<int> cells;
    std::vector<double> eps;
    bool relu;
};

ProjectSettings read_settings(py::handle settings) {
    return {field<std::vector<int>>(settings, "cells"), field<std::vector<double>>(settings, "eps"),
            field<bool>(settings, "relu")};
}

/// Levels side by side in `map` (N, sum O, S').
ProjectPyramid pyramid_of(const ProjectSettings& settings, const std::vector<int>& channels, const char* name,
                          const TensorRef& map) {
    if (channels.size() != settings.cells.size()) throw std::invalid_argument("a level has cells and channels");
    if (channels.size() > max_project_levels) throw std::invalid_argument("at most 8 levels per launch");
    ProjectPyramid p{};
    int cell = 0, channel = 0;
    for (const int o : channels) {
        ProjectLevel& level = p.level[p.levels];
        level.cells = settings.cells[static_cast<std::size_t>(p.levels++)], level.channels = o;
        level.first_cell = cell, level.first_channel = channel;
        cell += level.cells, channel += o;
    }
    expect(name, expect_dims(name, map, 3), {map.size[0], channel, map.size[2]});
    p.n = static_cast<int>(map.size[0]), p.c = 1, p.full = static_cast<int>(map.size[2]);
    p.dtype = dtype_of(name, map);
    return p;
}

/// With their weights (O, C) or (O, C, 1, 1), for products with `pooled` (N, C, S).
ProjectPyramid products_of(const ProjectSettings& settings, bool tf32, const TensorRefs& weights, const char* name,
                           const TensorRef& map, const char* pooled_name, const TensorRef& pooled) {
    std::vector<int> channels;
    for (const TensorRef& weight : weights) channels.push_back(static_cast<int>(weight.size[0]));
    ProjectPyramid p = pyramid_of(settings, channels, name, map);
    const std::int64_t c = expect_dims(pooled_name, pooled, 3).size[1];
    p.tf32 = tf32, p.c = static_cast<int>(c);
    ProjectLevel* level = p.level;
    std::int64_t cells = 0;
    for (const TensorRef& weight : weights) {
        if (weight.dims == 2)
            expect("a weight", weight, {level->channels, c});
        else
            expect("a weight", weight, {level->channels, c, 1, 1});
        level->weight = weight.data, level->w_o = weight.stride[0], level->w_c = weight.stride[1];
        cells += level++->cells;
    }
    expect(pooled_name, pooled, {p.n, c, cells});
    return p;
}

void add_norms(ProjectPyramid& p, const ProjectSettings& settings, const TensorRefs& gain, const TensorRefs& bias,
               const TensorRefs& mean, const TensorRefs& var, const TensorRef& like) {
    for (std::size_t l = 0; l < settings.cells.size(); ++l)
        p.level[l].norm =
            norm_of(gain.at(l), bias.at(l), mean.at(l), var.at(l), settings.eps.at(l), p.level[l].channels, like);
}

Status fwd(Queue queue, const ProjectSettings& settings, const bool& tf32, const TensorRef& pooled, const TensorRef& y,
           const TensorRef& z, const TensorRefs& weights, const TensorRefs& gain, const TensorRefs& bias,
           const TensorRefs& mean, const TensorRefs& var) {
    PyramidProjectFwdParams p{};
    p.pyramid = products_of(settings, tf32, weights, "y", y, "pooled", pooled);
    add_norms(p.pyramid, settings, gain, bias, mean, var, y);
    p.pooled = pooled.data, p.x_n = pooled.stride[0], p.x_c = pooled.stride[1], p.x_s = pooled.stride[2];
    p.y = y.data, p.y_n = y.stride[0], p.y_c = y.stride[1], p.y_s = y.stride[2];
    p.z = z.data, p.relu = settings.relu;
    return launch_pyramid_project_fwd(p, queue);
}

/// y and z have the same strides.
Status bwd_dz(Queue queue, const ProjectSettings& settings, const std::vector<int>& channels, const TensorRef& dy,
              const TensorRef& y, const TensorRef& z, const TensorRef& dz, const TensorRef& sums,
              const TensorRefs& gain, const TensorRefs& bias, const TensorRefs& mean, const TensorRefs& var) {
    PyramidProjectBwdDzParams p{};
    p.pyramid = pyramid_of(settings, channels, "dy", dy);
    add_norms(p.pyramid, settings, gain, bias, mean, var, dy);
    p.dy = dy.data, p.dy_n = dy.stride[0], p.dy_c = dy.stride[1], p.dy_s = dy.stride[2];
    const TensorRef& saved = y.given ? y : z;
    p.y = y.data, p.z = z.data, p.y_n = saved.stride[0], p.y_c = saved.stride[1], p.y_s = saved.stride[2];
    expect("sums", sums, {2, dy.size[1]});
    p.dz = dz.data, p.sums = sums.data, p.sums_row = sums.stride[0];
    return launch_pyramid_project_bwd_dz(p, queue);
}

Status bwd_dpooled(Queue queue, const ProjectSettings& settings, const bool& tf32, const TensorRef& dz,
                   const TensorRef& dpooled, const TensorRefs& weights) {
    PyramidProjectBwdDpooledParams p{};
    p.pyramid = products_of(settings, tf32, weights, "dz", dz, "dpooled", dpooled);
    p.dz = dz.data, p.dz_n = dz.stride[0], p.dz_c = dz.stride[1], p.dz_s = dz.stride[2];
    p.dpooled = dpooled.data, p.x_n = dpooled.stride[0], p.x_c = dpooled.stride[1], p.x_s = dpooled.stride[2];
    return launch_pyramid_project_bwd_dpooled(p, queue);
}

Status bwd_dweights(Queue queue, const ProjectSettings& settings, const bool& tf32, const TensorRef& dz,
                    const TensorRef& pooled, const TensorRefs& dweights) {
    PyramidProjectBwdDweightsParams p{};
    p.pyramid = products_of(settings, tf32, dweights, "dz", dz, "pooled", pooled);
    p.dz = dz.data, p.dz_n = dz.stride[0], p.dz_c = dz.stride[1], p.dz_s = dz.stride[2];
    p.pooled = pooled.data, p.x_n = pooled.stride[0], p.x_c = pooled.stride[1], p.x_s = pooled.stride[2];
    return launch_pyramid_project_bwd_dweights(p, queue);
}

}  // namespace

void bind_pyramid_project(py::module_& m) {
    m.def("pyramid_project_fwd", prepared(read_settings, fwd));
    m.def("pyramid_project_bwd_dz", prepared(read_settings, bwd_dz));
    m.def("pyramid_project_bwd_dpooled", prepared(read_settings, bwd_dpooled));
    m.def("pyramid_project_bwd_dweights", prepared(read_settings, bwd_dweights));
}

}  // namespace pk::bindings
