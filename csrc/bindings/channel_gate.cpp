// Python bindings of channel_gate.
#include "channel_gate/channel_gate.h"

#include "bindings/call.h"

namespace pk::bindings {

namespace {

ChannelGateProblem gate_of(py::handle settings) {
    ChannelGateProblem p{};
    p.activation = static_cast<HiddenActivation>(choice(settings, "activation", {"none", "relu", "silu"}));
    p.hard = field<bool>(settings, "hard"), p.residual = field<bool>(settings, "residual");
    p.norm1.eps = field<double>(settings, "eps");
    return p;
}

/// A weight (rows, columns), of a convolution or a matrix, or none.
ChannelGateWeight weight_of(const char* name, const TensorRef& weight, std::int64_t rows, std::int64_t columns) {
    if (weight.dims == 4)
        expect(name, weight, {rows, columns, 1, 1});
    else if (weight.given)
        expect(name, weight, {rows, columns});
    return {weight.data, weight.stride[0], weight.stride[1]};
}

/// What `gate` becomes with the tensors that both directions read; layers: weight1, bias1, scale1, shift1, mean1, var1,
/// weight2, bias2.
ChannelGateProblem problem_of(ChannelGateProblem gate, bool channels_last, const TensorRef& x, const TensorRefs& layers,
                              const TensorRef& part) {
    take_map("x", x, gate);
    gate.dtype = dtype_of("x", x), gate.channels_last = channels_last, gate.x = x.data;
    gate.k = static_cast<int>(layers.at(0).size[0]);
    gate.weight1 = weight_of("weight1", layers[0], gate.k, gate.c);
    gate.bias1 = vector_of("bias1", layers.at(1), gate.k, x);
    gate.norm1 = norm_of(layers.at(2), layers.at(3), layers.at(4), layers.at(5), gate.norm1.eps, gate.k, x);
    gate.weight2 = weight_of("weight2", layers.at(6), gate.c, gate.k);
    gate.bias2 = vector_of("bias2", layers.at(7), gate.c, x);
    gate.parts = static_cast<int>(part.size[1]), gate.part = part.data;
    return gate;
}

Status fwd(Queue queue, const ChannelGateProblem& settings, const bool& channels_last, const TensorRef& x,
           const TensorRefs& layers, const TensorRef& part, const TensorRef& mean, const TensorRef& hidden,
           const TensorRef& gate, const TensorRef& y) {
    const auto p = problem_of(settings, channels_last, x, layers, part);
    return launch_channel_gate_fwd({p, mean.data, hidden.data, gate.data, y.data}, queue);
}

Status bwd(Queue queue, const ChannelGateProblem& settings, const bool& channels_last, const TensorRef& x,
           const TensorRefs& layers, const TensorRef& part, const TensorRef& mean, const TensorRef& hidden,
           const TensorRef& gate, const TensorRef& dy, const TensorRef& dz, const TensorRef& dhidden,
           const TensorRef& dmean, const TensorRef& dx, const TensorRef& dweight1, const TensorRef& dweight2,
           const TensorRef& dvectors) {
    const auto p = problem_of(settings, channels_last, x, layers, part);
    expect("mean", mean, {p.n, p.c});
    expect("hidden", hidden, {p.n, p.k});
    expect("gate", gate, {p.n, p.c});
    expect("dy", dy, {p.n, p.c, p.h, p.w});
    return launch_channel_gate_bwd(
        {p, mean.data, hidden.data, gate.data, dy.data, dz.data, dhidden.data, dmean.data, dx.data,
         weight_of("dweight1", dweight1, p.k, p.c), weight_of("dweight2", dweight2, p.c, p.k), dvectors.data},
        queue);
}

const Binding binding([](py::module_& m) {
    m.def("channel_gate_fwd", prepared(gate_of, fwd));
    m.def("channel_gate_bwd", prepared(gate_of, bwd));
});

}  // namespace

}  // namespace pk::bindings
