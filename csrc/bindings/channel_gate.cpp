// Python's way to channel_gate.
#include "channel_gate/channel_gate.h"

#include "bindings/arguments.h"

namespace pk::bindings {

namespace {

/// Address and strides of a matrix; an address of 0 for none.
ChannelGateWeight weight_of(const Ints& v) { return {at(static_cast<Address>(v.at(0))), v.at(1), v.at(2)}; }

/// An address, 0 for none, and whether it has the call's dtype.
ChannelVector vector_of(const Ints& v) { return {at(static_cast<Address>(v.at(0))), v.at(1) != 0}; }

/// sizes: n, c, h, w, k, channels_last, relu, residual, parts. layers: weight1, bias1, scale1, shift1, weight2, bias2.
ChannelGateProblem channel_gate_problem(int dtype, const Ints& sizes, const Rows& layers, const Ints& x, Address part) {
    ChannelGateProblem p{};
    p.dtype = dtype_of(dtype);
    int* ints[] = {&p.n, &p.c, &p.h, &p.w, &p.k};
    for (std::size_t i = 0; i < 5; ++i) *ints[i] = static_cast<int>(sizes.at(i));
    p.channels_last = sizes.at(5) != 0, p.relu = sizes.at(6) != 0, p.residual = sizes.at(7) != 0;
    p.parts = static_cast<int>(sizes.at(8));
    p.weight1 = weight_of(layers.at(0)), p.weight2 = weight_of(layers.at(4));
    p.bias1 = vector_of(layers.at(1)), p.scale1 = vector_of(layers.at(2)), p.shift1 = vector_of(layers.at(3));
    p.bias2 = vector_of(layers.at(5));
    const Map map(x);
    p.x = map.at, p.part = at(part);
    p.strides[0] = map.n, p.strides[1] = map.c, p.strides[2] = map.h, p.strides[3] = map.w;
    return p;
}

}  // namespace

void bind_channel_gate(py::module_& m) {
    m.def("channel_gate_fwd", [](int dtype, int device, Address stream, const Ints& sizes, const Rows& layers,
                                 const Ints& x, Address part, Address mean, Address hidden, Address gate, Address y) {
        raise_unless_ok(launch_channel_gate_fwd(
            {channel_gate_problem(dtype, sizes, layers, x, part), at(mean), at(hidden), at(gate), at(y)},
            LaunchOn(device, stream)));
    });
    m.def("channel_gate_bwd",
          [](int dtype, int device, Address stream, const Ints& sizes, const Rows& layers, const Ints& x, Address part,
             Address mean, Address hidden, Address gate, Address dy, Address dz, Address dhidden, Address dmean,
             Address dx, const Ints& dweight1, const Ints& dweight2, Address dvectors) {
              raise_unless_ok(launch_channel_gate_bwd(
                  {channel_gate_problem(dtype, sizes, layers, x, part), at(mean), at(hidden), at(gate), at(dy), at(dz),
                   at(dhidden), at(dmean), at(dx), weight_of(dweight1), weight_of(dweight2), at(dvectors)},
                  LaunchOn(device, stream)));
          });
}

}  // namespace pk::bindings
