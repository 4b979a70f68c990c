// Python bindings of upsample_argmax.
#include "upsample_argmax/upsample_argmax.h"

#include "bindings/upsampled.h"

namespace pk::bindings {

namespace {

bool corners_of(py::handle settings) { return field<bool>(settings, "align_corners"); }

Status fwd(Queue queue, const bool& align_corners, const TensorRef& logits, const TensorRef& labels) {
    const auto p = upsampled(logits, "labels", labels, align_corners);
    return launch_upsample_argmax_fwd({p, label_type_of("labels", labels), labels.data}, queue);
}

const Binding binding([](py::module_& m) { m.def("upsample_argmax_fwd", prepared(corners_of, fwd)); });

}  // namespace

}  // namespace pk::bindings
