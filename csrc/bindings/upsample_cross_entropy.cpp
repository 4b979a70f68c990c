// Python's way to upsample_cross_entropy.
#include "upsample_cross_entropy/upsample_cross_entropy.h"

#include "bindings/upsampled.h"

namespace pk::bindings {

namespace {

/// target: address and label type; ignore: the label that does not count.
UpsampleCrossEntropyProblem problem_of(int dtype, const Ints& logits, const Ints& size, bool align_corners,
                                       const Ints& target, std::int64_t ignore, Address weight, double smoothing) {
    return {upsampled(dtype, logits, size, align_corners),
            at(static_cast<Address>(target.at(0))),
            static_cast<LabelType>(target.at(1)),
            ignore,
            at(weight),
            smoothing};
}

}  // namespace

void bind_upsample_cross_entropy(py::module_& m) {
    m.def("upsample_cross_entropy_parts", [](int dtype, const Ints& logits, const Ints& size) {
        return upsample_cross_entropy_parts(upsampled(dtype, logits, size, false));
    });
    m.def("upsample_cross_entropy_fwd", [](int dtype, int device, Address stream, const Ints& logits, const Ints& size,
                                           bool align_corners, const Ints& target, std::int64_t ignore, Address weight,
                                           double smoothing, Address y, Address lse, Address part) {
        const UpsampleCrossEntropyFwdParams params{
            problem_of(dtype, logits, size, align_corners, target, ignore, weight, smoothing), at(y), at(lse),
            at(part)};
        raise_unless_ok(launch_upsample_cross_entropy_fwd(params, LaunchOn(device, stream)));
    });
    m.def("upsample_cross_entropy_sums",
          [](int dtype, int device, Address stream, int parts, bool mean, Address part, Address y, Address factor) {
              const UpsampleCrossEntropySumsParams params{dtype_of(dtype), parts, mean, at(part), at(y), at(factor)};
              raise_unless_ok(launch_upsample_cross_entropy_sums(params, LaunchOn(device, stream)));
          });
    m.def("upsample_cross_entropy_bwd_dlogits",
          [](int dtype, int device, Address stream, const Ints& logits, const Ints& size, bool align_corners,
             const Ints& target, std::int64_t ignore, Address weight, double smoothing, Address dy, Address factor,
             Address lse, Address dlogits, const Ints& strides) {
              const UpsampleCrossEntropyBwdParams params{
                  problem_of(dtype, logits, size, align_corners, target, ignore, weight, smoothing),
                  at(dy),
                  at(factor),
                  at(lse),
                  at(dlogits),
                  {strides.at(0), strides.at(1), strides.at(2), strides.at(3)}};
              raise_unless_ok(launch_upsample_cross_entropy_bwd_dlogits(params, LaunchOn(device, stream)));
          });
}

}  // namespace pk::bindings
