// What of a public call's arguments decides how it runs, in one walk.
#include <cstring>

#include "bindings/call.h"

namespace pk::bindings {

namespace {

class Key {
  public:
    /// `grad`: whether it decides anything that a tensor requires a gradient.
    Key(py::handle tensor, py::handle parameter, bool grad) : tensor_(tensor), parameter_(parameter), grad_(grad) {
        bytes_.reserve(1024);
        put(grad);
    }

    /// False where the argument may be more than it seems: a subclass, a pending negation, elements without memory.
    bool add(const py::object& a, int depth = 0) {
        if (is(a, tensor_) || is(a, parameter_)) return add_tensor(a);
        if (PyList_CheckExact(a.ptr()) || PyTuple_Check(a.ptr())) {
            if (depth == max_depth) return false;
            put(PyList_CheckExact(a.ptr()) ? '[' : '(', PySequence_Fast_GET_SIZE(a.ptr()));
            if (!PyList_CheckExact(a.ptr()) && !PyTuple_CheckExact(a.ptr())) constants_.append(py::type::of(a));
            // Owned one by one, and the size asked each time: another thread may change a list meanwhile.
            for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(a.ptr()); ++i)
                if (!add(py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(a.ptr(), i)), depth + 1))
                    return false;
            return true;
        }
        if (PyType_IsSubtype(Py_TYPE(a.ptr()), reinterpret_cast<PyTypeObject*>(tensor_.ptr()))) return false;
        put('c', Py_TYPE(a.ptr()));  // 1, 1.0 and True are equal
        constants_.append(a);
        return true;
    }

    py::tuple found() {
        constants_.append(py::bytes(bytes_));
        return py::make_tuple(py::tuple(constants_), tensors_, addresses_);
    }

  private:
    static constexpr int max_depth = 5;  // the arguments, a list, a norm of it, and spare

    static bool is(py::handle a, py::handle type) {
        return reinterpret_cast<PyObject*>(Py_TYPE(a.ptr())) == type.ptr();
    }

    bool add_tensor(py::handle a) {
        static const dlpack::ExchangeApi& api = exchange_api(reinterpret_cast<PyTypeObject*>(tensor_.ptr()));
        dlpack::Tensor t;
        if (api.tensor_from_python(a.ptr(), &t) != 0) {
            PyErr_Clear();
            return false;
        }
        bool empty = false;
        put('t', t.dims, t.code, t.bits, t.device_type, t.device);
        for (int i = 0; i < t.dims; ++i) {
            put(t.size[i], t.stride[i]);
            empty |= t.size[i] == 0;
        }
        // Held for good: to look them up for each tensor takes longer than to call them.
        static PyObject* const requires_grad = py::object(tensor_.attr("requires_grad")).release().ptr();
        static PyObject* const is_neg = py::object(tensor_.attr("is_neg")).release().ptr();
        if (grad_) {
            const auto wanted = owned(Py_TYPE(requires_grad)->tp_descr_get(requires_grad, a.ptr(), tensor_.ptr()));
            put('g', wanted.ptr() == Py_True);
        }
        tensors_.append(a);
        addresses_.append(owned(PyLong_FromVoidPtr(static_cast<char*>(t.data) + t.byte_offset)));
        return (t.data || empty) && owned(PyObject_CallOneArg(is_neg, a.ptr())).ptr() != Py_True;
    }

    static py::object owned(PyObject* made) {
        if (!made) throw py::error_already_set();
        return py::reinterpret_steal<py::object>(made);
    }

    template <class... Values>
    void put(Values... values) {
        (bytes_.append(reinterpret_cast<const char*>(&values), sizeof(values)), ...);
    }

    py::handle tensor_, parameter_;
    bool grad_;
    std::string bytes_;
    py::list constants_, tensors_, addresses_;
};

/// (what to look up, the tensors in order, their addresses) of a call's arguments; None where it must go the long way.
py::object key(py::handle tensor, py::handle parameter, bool grad, const py::tuple& args, const py::dict& named) {
    Key found(tensor, parameter, grad);
    if (!found.add(args)) return py::none();
    for (const auto& [name, value] : named)
        if (!found.add(py::reinterpret_borrow<py::object>(name)) ||
            !found.add(py::reinterpret_borrow<py::object>(value)))
            return py::none();
    return found.found();
}

const Binding binding([](py::module_& m) { m.def("key", key); });

}  // namespace

}  // namespace pk::bindings
