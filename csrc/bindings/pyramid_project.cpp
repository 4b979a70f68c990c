// Python bindings of pyramid_project.
#include "pyramid_project/pyramid_project.h"

#include "bindings/call.h"

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
    if (channels.size() > max_project_levels) throw std::invalid_argument("at most 8 levels per launch");
    ProjectPyramid p{};
    int cell = 0, channel = 0;
    for (const int o : channels) {
        ProjectLevel& level = p.level[p.levels];
        level.cells = settings.cells.at(static_cast<std::size_t>(p.levels++)), level.channels = o;
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
                           const TensorRef& map, const TensorRef& pooled) {
    std::vector<int> channels;
    for (const TensorRef& weight : weights) channels.push_back(static_cast<int>(weight.size[0]));
    ProjectPyramid p = pyramid_of(settings, channels, name, map);
    const std::int64_t c = expect_dims("pooled", pooled, 3).size[1];
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
    expect("pooled", pooled, {p.n, c, cells});
    return p;
}

void add_norms(ProjectPyramid& p, const ProjectSettings& settings, const TensorRefs& gain, const TensorRefs& bias,
               const TensorRefs& mean, const TensorRefs& var, const TensorRef& like) {
    for (std::size_t l = 0; l < gain.size(); ++l)
        p.level[l].norm =
            norm_of(gain.at(l), bias.at(l), mean.at(l), var.at(l), settings.eps.at(l), p.level[l].channels, like);
}

Status fwd(Queue queue, const ProjectSettings& settings, const bool& tf32, const TensorRef& pooled, const TensorRef& y,
           const TensorRef& z, const TensorRefs& weights, const TensorRefs& gain, const TensorRefs& bias,
           const TensorRefs& mean, const TensorRefs& var) {
    ProjectPyramid pyramid = products_of(settings, tf32, weights, "y", y, pooled);
    add_norms(pyramid, settings, gain, bias, mean, var, y);
    return launch_pyramid_project_fwd({pyramid, pooled.data, pooled.stride[0], pooled.stride[1], pooled.stride[2],
                                       y.data, z.data, y.stride[0], y.stride[1], y.stride[2], settings.relu},
                                      queue);
}

/// y and z have the same strides.
Status bwd_dz(Queue queue, const ProjectSettings& settings, const std::vector<int>& channels, const TensorRef& dy,
              const TensorRef& y, const TensorRef& z, const TensorRef& dz, const TensorRef& sums,
              const TensorRefs& gain, const TensorRefs& bias, const TensorRefs& mean, const TensorRefs& var) {
    ProjectPyramid pyramid = pyramid_of(settings, channels, "dy", dy);
    add_norms(pyramid, settings, gain, bias, mean, var, dy);
    expect("sums", sums, {2, dy.size[1]});
    const std::int64_t* saved = y.given ? y.stride : z.stride;
    return launch_pyramid_project_bwd_dz({pyramid, dy.data, dz.data, dy.stride[0], dy.stride[1], dy.stride[2], y.data,
                                          z.data, saved[0], saved[1], saved[2], sums.data, sums.stride[0]},
                                         queue);
}

/// A product of dz with `weights` or with `cells`, whose result is the other.
template <auto launch>
Status bwd_product(Queue queue, const ProjectSettings& settings, const bool& tf32, const TensorRef& dz,
                   const TensorRef& cells, const TensorRefs& weights) {
    return launch({products_of(settings, tf32, weights, "dz", dz, cells), dz.data, dz.stride[0], dz.stride[1],
                   dz.stride[2], cells.data, cells.stride[0], cells.stride[1], cells.stride[2]},
                  queue);
}

const Binding binding([](py::module_& m) {
    m.def("pyramid_project_fwd", prepared(read_settings, fwd));
    m.def("pyramid_project_bwd_dz", prepared(read_settings, bwd_dz));
    m.def("pyramid_project_bwd_dpooled", prepared(read_settings, bwd_product<launch_pyramid_project_bwd_dpooled>));
    m.def("pyramid_project_bwd_dweights", prepared(read_settings, bwd_product<launch_pyramid_project_bwd_dweights>));
});

}  // namespace

}  // namespace pk::bindings
