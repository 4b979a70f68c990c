// A launch whose tensors and settings are checked: run as often as their shapes come again, with other addresses.
#pragma once

#include <functional>
#include <tuple>
#include <utility>

#include "bindings/tensor_ref.h"
#include "common/check.h"
#include "common/queue.h"
#include "common/resample.h"

namespace pk::bindings {

using Address = std::uintptr_t;
using Addresses = std::vector<Address>;

inline void raise_unless_ok(const Status& status) {
    if (!status.ok()) throw std::runtime_error(status.error);
}

class Call {
  public:
    /// What `launch(queue, args...)` does, whose TensorRefs take the addresses of each run in order.
    template <class... Args>
    Call(Status (*launch)(Queue, const Args&...), Args... args)
        : launch_([launch, args = std::tuple<Args...>(std::move(args)...)](Queue queue, Next& next, Next end) {
              auto now = args;
              std::apply([&](auto&... arg) { (place(arg, next, end), ...); }, now);
              return std::apply([&](auto&... arg) { return launch(queue, arg...); }, now);
          }) {}

    /// One after the other, each with the addresses behind those of the one before.
    static Call joined(std::vector<Call> calls) {
        return Call([calls = std::move(calls)](Queue queue, Next& next, Next end) {
            Status status;
            for (auto call = calls.begin(); status.ok() && call != calls.end(); ++call)
                status = call->launch_(queue, next, end);
            return status;
        });
    }

    /// While it lasts other Python threads run: where the device's queue is full a launch waits, for what may itself
    /// wait for Python.
    void run(int device, Address stream, const Addresses& addresses) const {
        py::gil_scoped_release unlocked;
        auto next = addresses.begin();
        raise_unless_ok(launch_({device, reinterpret_cast<void*>(stream)}, next, addresses.end()));
    }

  private:
    using Next = Addresses::const_iterator;
    using Launch = std::function<Status(Queue, Next&, Next)>;

    explicit Call(Launch launch) : launch_(std::move(launch)) {}

    static void place(TensorRef& t, Next& next, Next end) {
        if (next == end) throw std::invalid_argument("too few addresses");
        t.data = reinterpret_cast<void*>(*next++);
    }
    static void place(TensorRefs& list, Next& next, Next end) {
        for (TensorRef& t : list) place(t, next, end);
    }
    template <class Other>
    static void place(Other&, Next&, Next) {}

    Launch launch_;
};

/// The Python function that makes a Call of `launch`, whose first argument is a NamedTuple that `read` reads.
template <class Settings, class... Args>
auto prepared(Settings (*read)(py::handle), Status (*launch)(Queue, const Settings&, const Args&...)) {
    return [=](py::handle settings, Args... args) { return Call(launch, read(settings), std::move(args)...); };
}

/// The same of a launch that no settings decide.
template <class... Args>
auto prepared(Status (*launch)(Queue, const Args&...)) {
    return [=](Args... args) { return Call(launch, std::move(args)...); };
}

/// What a file adds to the Python module when that is imported: `const Binding name([](py::module_& m) { ... });`.
class Binding {
  public:
    using Bind = void (*)(py::module_&);

    explicit Binding(Bind bind) { all().push_back(bind); }

    static std::vector<Bind>& all() {
        static std::vector<Bind> bindings;
        return bindings;
    }
};

/// The value of a field of a NamedTuple of settings.
template <class T>
T field(py::handle settings, const char* name) {
    return settings.attr(name).cast<T>();
}

/// Which of `choices` a field of settings is.
inline int choice(py::handle settings, const char* name, std::initializer_list<const char*> choices) {
    const auto value = field<std::string>(settings, name);
    int i = 0;
    for (const char* one : choices) {
        if (value == one) return i;
        ++i;
    }
    throw std::invalid_argument(std::string(name) + " has no value " + value);
}

/// How maps are resized.
inline Resample resample_of(py::handle settings) {
    if (choice(settings, "mode", {"bilinear", "nearest"}) == 1) return Resample::nearest;
    return field<bool>(settings, "align_corners") ? Resample::align_corners : Resample::half_pixel;
}

}  // namespace pk::bindings
