// Python bindings of pyramid_conv.
#include "pyramid_conv/pyramid_conv.h"

#include "bindings/call.h"

namespace pk::bindings {

namespace {

struct ConvSettings {
    Resample how;
    bool relu;
};

ConvSettings read_settings(py::handle settings) { return {resample_of(settings), field<bool>(settings, "relu")}; }

/// Levels (n, k * k * o, h, w) of an output, or of its gradient, `full` (n, o, H, W).
PyramidConvProblem problem_of(const ConvSettings& settings, bool channels_last, int k, const TensorRefs& levels,
                              const char* name, const TensorRef& full) {
    PyramidConvProblem p{};
    expect_dims(name, full, 4);
    p.dtype = dtype_of(name, full), p.channels_last = channels_last, p.how = settings.how, p.k = k;
    p.n = static_cast<int>(full.size[0]), p.o = static_cast<int>(full.size[1]);
    p.h = static_cast<int>(full.size[2]), p.w = static_cast<int>(full.size[3]);
    if (levels.size() > pyramid_conv_levels) throw std::invalid_argument("at most 16 levels per launch");
    for (const TensorRef& level : levels) {
        PyramidConvLevel& to = p.levels[p.count++];
        expect("a level", expect_dims("a level", level, 4), {p.n, k * k * p.o, level.size[2], level.size[3]});
        to.data = level.data, to.h = static_cast<int>(level.size[2]), to.w = static_cast<int>(level.size[3]);
        std::copy_n(level.stride, 4, to.strides);
    }
    return p;
}

PyramidConvOperand operand_of(const PyramidConvProblem& p, bool tf32, const TensorRef& x, const TensorRef& weight) {
    PyramidConvOperand operand{};
    if (!x.given) return operand;
    expect("x", x, {p.n, x.size[1], p.h, p.w});
    expect("weight", weight, {p.o, x.size[1]});
    operand.x = x.data, operand.c = static_cast<int>(x.size[1]), operand.tf32 = tf32, operand.weight = weight.data;
    std::copy_n(x.stride, 4, operand.strides);
    operand.weight_o = weight.stride[0], operand.weight_c = weight.stride[1];
    return operand;
}

Status merge(Queue queue, const ConvSettings& settings, const bool& channels_last, const int& k, const bool& tf32,
             const TensorRef& base, const TensorRef& x, const TensorRef& weight, const TensorRefs& levels,
             const TensorRef& bias, const TensorRef& scale, const TensorRef& shift, const TensorRef& y,
             const TensorRef& z) {
    PyramidConvMergeParams p{};
    p.problem = problem_of(settings, channels_last, k, levels, "y", y);
    p.operand = operand_of(p.problem, tf32, x, weight);
    const std::int64_t o = p.problem.o;
    const auto b = vector_of("bias", bias, o, y), a = vector_of("scale", scale, o, y),
               c = vector_of("shift", shift, o, y);
    p.bias = b.at, p.scale = a.at, p.shift = c.at;
    p.bias_is_t = b.is_t, p.scale_is_t = a.is_t, p.shift_is_t = c.is_t;
    p.base = base.data, p.relu = settings.relu, p.y = y.data, p.z = z.data;
    return launch_pyramid_conv_merge(p, queue);
}

Status bwd_dlevels(Queue queue, const ConvSettings& settings, const bool& channels_last, const int& k,
                   const TensorRef& dz, const TensorRefs& dlevels) {
    return launch_pyramid_conv_bwd_dlevels({problem_of(settings, channels_last, k, dlevels, "dz", dz), dz.data}, queue);
}

const Binding binding([](py::module_& m) {
    m.def("pyramid_conv_merge", prepared(read_settings, merge));
    m.def("pyramid_conv_bwd_dlevels", prepared(read_settings, bwd_dlevels));
});

}  // namespace

}  // namespace pk::bindings
