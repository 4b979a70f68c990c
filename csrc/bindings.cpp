// The Python module: plain integers in, an exception out. The same file is `_cuda` and, over the host simulator,
// `_hostsim`; Python allocates, fills the sizes and strides, and names the device and stream.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "common/check.h"
#include "common/observe.h"
#include "common/queue.h"

namespace py = pybind11;

namespace {

using Address = std::uintptr_t;
using Ints = std::vector<std::int64_t>;

void* at(Address address) { return reinterpret_cast<void*>(address); }

pk::Dtype dtype_of(int code) {
    if (!pk::is_dtype(code)) throw std::invalid_argument("dtype must be 0 to 3, got " + std::to_string(code));
    return static_cast<pk::Dtype>(code);
}

/// Copy `from` into the front of the array `to`; returns how many there are.
template <class I, std::size_t Most>
int fill(I (&to)[Most], const Ints& from, const char* what) {
    if (from.size() > Most)
        throw std::invalid_argument(std::string("at most ") + std::to_string(Most) + " " + what + ", got " +
                                    std::to_string(from.size()));
    for (std::size_t i = 0; i < from.size(); ++i) to[i] = static_cast<I>(from[i]);
    return static_cast<int>(from.size());
}

void raise_unless_ok(const pk::Status& status) {
    if (!status.ok()) throw std::runtime_error(status.error);
}

}  // namespace

PYBIND11_MODULE(PK_MODULE_NAME, m, py::mod_gil_not_used()) {
    m.doc() = "Launchers of pyramid_kernels; arguments are sizes, strides in elements and addresses.";
    m.attr("architectures") = pk::architectures();
    m.def("listen", [](bool on) { pk::launch_log.listen(on); });
    m.def("take_launches", [] {
        py::list launches;
        for (const auto& [kernel, dtype] : pk::launch_log.take())
            launches.append(py::make_tuple(kernel, pk::name_of(dtype)));
        return launches;
    });
}
