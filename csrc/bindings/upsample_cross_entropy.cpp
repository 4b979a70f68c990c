// Python bindings of upsample_cross_entropy.
#include "upsample_cross_entropy/upsample_cross_entropy.h"

#include "bindings/upsampled.h"

namespace pk::bindings {

namespace {

using Loss = UpsampleCrossEntropyProblem;

Loss loss_of(py::handle settings) {
    Loss p{};
    p.logits.align_corners = field<bool>(settings, "align_corners");
    p.ignore = field<std::int64_t>(settings, "ignore_index"), p.smoothing = field<double>(settings, "label_smoothing");
    return p;
}

bool is_mean(py::handle settings) { return field<std::string>(settings, "reduction") == "mean"; }

/// What `loss` becomes with the tensors that both directions read.
Loss problem_of(Loss loss, const TensorRef& logits, const TensorRef& target, const TensorRef& weight) {
    loss.logits = upsampled(logits, "target", target, loss.logits.align_corners);
    if (weight.given) expect("weight", weight, {loss.logits.c});
    loss.target = target.data, loss.type = label_type_of("target", target), loss.weight = weight.data;
    return loss;
}

int parts(const TensorRef& logits, const TensorRef& target) {
    return upsample_cross_entropy_parts(upsampled(logits, "target", target, false));
}

/// `y`: only where nothing is reduced; `part`: only where something is.
Status fwd(Queue queue, const Loss& loss, const TensorRef& logits, const TensorRef& target, const TensorRef& weight,
           const TensorRef& y, const TensorRef& lse, const TensorRef& part) {
    const auto p = problem_of(loss, logits, target, weight);
    return launch_upsample_cross_entropy_fwd({p, y.data, lse.data, part.data}, queue);
}

/// `logits`: those of the loss, for their type.
Status sums(Queue queue, const bool& mean, const TensorRef& logits, const TensorRef& part, const TensorRef& y,
            const TensorRef& factor) {
    const auto parts = static_cast<int>(part.size[1]);
    return launch_upsample_cross_entropy_sums({dtype_of("logits", logits), parts, mean, part.data, y.data, factor.data},
                                              queue);
}

Status bwd_dlogits(Queue queue, const Loss& loss, const TensorRef& dy, const TensorRef& logits, const TensorRef& target,
                   const TensorRef& weight, const TensorRef& lse, const TensorRef& factor, const TensorRef& dlogits) {
    const auto p = problem_of(loss, logits, target, weight);
    expect("lse", lse, {p.logits.n, p.logits.rows, p.logits.cols});
    if (!factor.given) expect("dy", dy, {p.logits.n, p.logits.rows, p.logits.cols});
    UpsampleCrossEntropyBwdParams params{p, dy.data, factor.data, lse.data, dlogits.data, {}};
    std::copy_n(dlogits.stride, 4, params.strides);
    return launch_upsample_cross_entropy_bwd_dlogits(params, queue);
}

const Binding binding([](py::module_& m) {
    m.def("upsample_cross_entropy_parts", parts);
    m.def("upsample_cross_entropy_fwd", prepared(loss_of, fwd));
    m.def("upsample_cross_entropy_sums", prepared(is_mean, sums));
    m.def("upsample_cross_entropy_bwd_dlogits", prepared(loss_of, bwd_dlogits));
});

}  // namespace

}  // namespace pk::bindings
