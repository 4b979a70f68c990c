// The Python module: tensors in, an exception out. The same files are `_cuda` and, over the host simulator,
// `_hostsim`; Python allocates, and names the device and stream.
#include "bindings/call.h"
#include "common/observe.h"

namespace py = pybind11;

PYBIND11_MODULE(PK_MODULE_NAME, m, py::mod_gil_not_used()) {
    m.doc() = "Launchers of pyramid_kernels: settings and tensors make a Call, which runs.";
    m.attr("architectures") = pk::architectures();
    py::class_<pk::bindings::Call>(m, "Call")
        .def("run", &pk::bindings::Call::run)
        .def_static("joined", &pk::bindings::Call::joined);
    m.def("listen", [](bool on) { pk::launch_log.listen(on); });
    m.def("take_launches", [] {
        py::list launches;
        for (const auto& [kernel, dtype] : pk::launch_log.take())
            launches.append(py::make_tuple(kernel, pk::name_of(dtype)));
        return launches;
    });
    for (const auto bind : pk::bindings::Binding::all()) bind(m);
}
