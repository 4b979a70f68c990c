// Python's way to pyramid_conv.
#include "pyramid_conv/pyramid_conv.h"

#include "bindings/arguments.h"

namespace pk::bindings {

namespace {

/// shape (n, o, h, w) of the output; levels: address, h, w and four strides each.
PyramidConvProblem pyramid_conv_problem(int dtype, const Ints& shape, bool channels_last, int how, int k,
                                        const Rows& levels) {
    PyramidConvProblem p{dtype_of(dtype), 0, 0, 0, 0, channels_last, static_cast<Resample>(how), k, 0, {}};
    int sizes[4];
    fill(sizes, shape, "sizes");
    p.n = sizes[0], p.o = sizes[1], p.h = sizes[2], p.w = sizes[3];
    if (levels.size() > pyramid_conv_levels)
        throw std::invalid_argument("at most " + std::to_string(pyramid_conv_levels) + " levels, got " +
                                    std::to_string(levels.size()));
    for (const Ints& v : levels)
        p.levels[p.count++] = {
            at(v.at(0)), static_cast<int>(v.at(1)), static_cast<int>(v.at(2)), {v.at(3), v.at(4), v.at(5), v.at(6)}};
    return p;
}

/// Nothing, or a map's address, four strides and channels, its weight's address and two strides, whether in TF32.
PyramidConvOperand pyramid_conv_operand(const Ints& v) {
    if (v.empty()) return {};
    return {at(v.at(0)), {v.at(1), v.at(2), v.at(3), v.at(4)}, static_cast<int>(v.at(5)), at(v.at(6)), v.at(7), v.at(8),
            v.at(9) != 0};
}

}  // namespace

void bind_pyramid_conv(py::module_& m) {
    m.def("pyramid_conv_merge",
          [](int dtype, int device, Address stream, const Ints& shape, bool channels_last, int how, int k,
             const Rows& levels, const Ints& operand, Address base, Address bias, bool bias_is_t, Address scale,
             bool scale_is_t, Address shift, bool shift_is_t, bool relu, Address y, Address z) {
              const PyramidConvMergeParams params{pyramid_conv_problem(dtype, shape, channels_last, how, k, levels),
                                                  pyramid_conv_operand(operand),
                                                  at(base),
                                                  at(bias),
                                                  at(scale),
                                                  at(shift),
                                                  bias_is_t,
                                                  scale_is_t,
                                                  shift_is_t,
                                                  relu,
                                                  at(y),
                                                  at(z)};
              raise_unless_ok(launch_pyramid_conv_merge(params, LaunchOn(device, stream)));
          });
    m.def("pyramid_conv_bwd_dlevels", [](int dtype, int device, Address stream, const Ints& shape, bool channels_last,
                                         int how, int k, const Rows& dlevels, Address dz) {
        const PyramidConvBwdLevelsParams params{pyramid_conv_problem(dtype, shape, channels_last, how, k, dlevels),
                                                at(dz)};
        raise_unless_ok(launch_pyramid_conv_bwd_dlevels(params, LaunchOn(device, stream)));
    });
}

}  // namespace pk::bindings
