// Python's way to upsample_argmax.
#include "upsample_argmax/upsample_argmax.h"

#include "bindings/upsampled.h"

namespace pk::bindings {

void bind_upsample_argmax(py::module_& m) {
    m.def("upsample_argmax_fwd", [](int dtype, int device, Address stream, const Ints& logits, const Ints& size,
                                    bool align_corners, int type, Address labels) {
        const UpsampleArgmaxParams params{upsampled(dtype, logits, size, align_corners), static_cast<LabelType>(type),
                                          at(labels)};
        raise_unless_ok(launch_upsample_argmax_fwd(params, LaunchOn(device, stream)));
    });
}

}  // namespace pk::bindings
