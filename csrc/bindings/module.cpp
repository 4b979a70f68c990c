// The Python module: tensors in, an exception out. The same files are `_cuda` and, over the host simulator,
// `_hostsim`; Python allocates, and names the device and stream.
#include "bindings/call.h"
#include "common/observe.h"

namespace pk::bindings {
void bind_channel_gate(py::module_& m);
void bind_max_pool_pyramid(py::module_& m);
void bind_pyramid_pool(py::module_& m);
void bind_pyramid_project(py::module_& m);
void bind_separable_pyramid(py::module_& m);
void bind_upsample_merge(py::module_& m);
void bind_pyramid_conv(py::module_& m);
void bind_upsample_argmax(py::module_& m);
void bind_upsample_cross_entropy(py::module_& m);
void bind_dilated_branches(py::module_& m);
void bind_key(py::module_& m);
}  // namespace pk::bindings

namespace py = pybind11;

PYBIND11_MODULE(PK_MODULE_NAME, m, py::mod_gil_not_used()) {
    m.doc() = "Launchers of pyramid_kernels: settings and tensors make a Call, which runs.";
    m.attr("architectures") = pk::architectures();
    py::class_<pk::bindings::Call>(m, "Call").def("run", &pk::bindings::Call::run);
    m.def("listen", [](bool on) { pk::launch_log.listen(on); });
    m.def("take_launches", [] {
        py::list launches;
        for (const auto& [kernel, dtype] : pk::launch_log.take())
            launches.append(py::make_tuple(kernel, pk::name_of(dtype)));
        return launches;
    });
    pk::bindings::bind_channel_gate(m);
    pk::bindings::bind_max_pool_pyramid(m);
    pk::bindings::bind_pyramid_pool(m);
    pk::bindings::bind_pyramid_project(m);
    pk::bindings::bind_separable_pyramid(m);
    pk::bindings::bind_upsample_merge(m);
    pk::bindings::bind_pyramid_conv(m);
    pk::bindings::bind_upsample_argmax(m);
    pk::bindings::bind_upsample_cross_entropy(m);
    pk::bindings::bind_dilated_branches(m);
    pk::bindings::bind_key(m);
}
