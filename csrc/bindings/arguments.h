// How Python's integers become a launcher's arguments.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/call.h"
#include "common/check.h"
#include "common/dispatch.h"
#include "common/queue.h"

namespace pk::bindings {

using Ints = std::vector<std::int64_t>;
using Rows = std::vector<Ints>;

inline void* at(Address address) { return reinterpret_cast<void*>(address); }

inline Dtype dtype_of(int code) {
    if (!is_dtype(code)) throw std::invalid_argument("dtype must be 0 to 3, got " + std::to_string(code));
    return static_cast<Dtype>(code);
}

/// Where a launch goes. While it lasts other Python threads run: where the device's queue is full a launch waits, for
/// what may itself wait for Python.
class LaunchOn {
  public:
    LaunchOn(int device, Address stream) : queue_{device, at(stream)} {}
    operator Queue() const { return queue_; }

  private:
    py::gil_scoped_release unlocked_;
    Queue queue_;
};

/// Copy `from` into the front of the array `to`; returns how many there are.
template <class I, std::size_t Most>
int fill(I (&to)[Most], const Ints& from, const char* what) {
    if (from.size() > Most)
        throw std::invalid_argument(std::string("at most ") + std::to_string(Most) + " " + what + ", got " +
                                    std::to_string(from.size()));
    for (std::size_t i = 0; i < from.size(); ++i) to[i] = static_cast<I>(from[i]);
    return static_cast<int>(from.size());
}

/// Address and strides of an (N, C, H, W) tensor.
struct Map {
    void* at;
    std::int64_t n, c, h, w;
    explicit Map(const Ints& v)
        : at(bindings::at(static_cast<Address>(v.at(0)))), n(v.at(1)), c(v.at(2)), h(v.at(3)), w(v.at(4)) {}
};

/// Address and strides of an (N, C, S) tensor.
struct Cells {
    void* at;
    std::int64_t n, c, s;
    explicit Cells(const Ints& v)
        : at(bindings::at(static_cast<Address>(v.at(0)))), n(v.at(1)), c(v.at(2)), s(v.at(3)) {}
};

}  // namespace pk::bindings
