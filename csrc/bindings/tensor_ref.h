// Tensors as the core sees them, through torch's DLPack exchange table: no torch header, no list of integers.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/dlpack.h"
#include "common/dispatch.h"
#include "common/labels.h"
#include "common/norm.h"

namespace pk::bindings {

namespace py = pybind11;

/// A borrowed tensor: address, type, sizes and strides in elements. Nothing of None is set.
struct TensorRef {
    static constexpr int max_dims = 5;
    void* data = nullptr;
    bool given = false;
    int dims = 0;
    dlpack::Code code = {};
    int bits = 0;
    std::int64_t size[max_dims] = {}, stride[max_dims] = {};

    template <class T>
    T* as() const {
        return static_cast<T*>(data);
    }
};

using TensorRefs = std::vector<TensorRef>;

inline std::string text_of(const std::int64_t* size, int dims) {
    std::ostringstream text;
    for (int i = 0; i < dims; ++i) text << (i ? ", " : "(") << size[i];
    text << (dims == 0 ? "()" : dims == 1 ? ",)" : ")");
    return text.str();
}

/// Refuse a tensor of another shape.
template <std::size_t Dims>
void expect(const char* name, const TensorRef& t, const std::int64_t (&size)[Dims]) {
    bool same = t.dims == static_cast<int>(Dims);
    for (std::size_t i = 0; same && i < Dims; ++i) same = t.size[i] == size[i];
    if (!same)
        throw std::invalid_argument(std::string(name) + " must be " + text_of(size, Dims) + ", got " +
                                    text_of(t.size, t.dims));
}

/// Refuse a tensor with another number of dimensions.
inline const TensorRef& expect_dims(const char* name, const TensorRef& t, int dims) {
    if (t.dims == dims) return t;
    throw std::invalid_argument(std::string(name) + " must be " + std::to_string(dims) + "-D, got " +
                                text_of(t.size, t.dims));
}

inline Dtype dtype_of(const char* name, const TensorRef& t) {
    if (t.code == dlpack::floating && t.bits == 32) return Dtype::f32;
    if (t.code == dlpack::floating && t.bits == 16) return Dtype::f16;
    if (t.code == dlpack::floating && t.bits == 64) return Dtype::f64;
    if (t.code == dlpack::bfloat && t.bits == 16) return Dtype::bf16;
    throw std::invalid_argument(std::string(name) + " must be float16, bfloat16, float32 or float64");
}

inline LabelType label_type_of(const char* name, const TensorRef& t) {
    if (t.code == dlpack::unsigned_int && t.bits == 8) return LabelType::u8;
    if (t.code == dlpack::signed_int && t.bits == 16) return LabelType::i16;
    if (t.code == dlpack::signed_int && t.bits == 32) return LabelType::i32;
    if (t.code == dlpack::signed_int && t.bits == 64) return LabelType::i64;
    throw std::invalid_argument(std::string(name) + " must be uint8, int16, int32 or int64");
}

/// Sizes and strides of an (N, C, H, W) tensor into the fields of `to` that hold them.
template <class Params>
void take_map(const char* name, const TensorRef& map, Params& to) {
    expect_dims(name, map, 4);
    if constexpr (requires { to.n; }) to.n = static_cast<decltype(to.n)>(map.size[0]);
    to.c = static_cast<decltype(to.c)>(map.size[1]);
    to.h = static_cast<decltype(to.h)>(map.size[2]);
    to.w = static_cast<decltype(to.w)>(map.size[3]);
    if constexpr (requires { to.strides; }) std::copy_n(map.stride, 4, to.strides);
}

/// A vector of `length`, or none, and whether it has the type of `like`.
inline ChannelVector vector_of(const char* name, const TensorRef& v, std::int64_t length, const TensorRef& like) {
    if (v.given) expect(name, v, {length});
    return {v.data, v.code == like.code && v.bits == like.bits};
}

/// A norm of vectors (channels,) or None, in float32 or the type of `like`.
inline Norm norm_of(const TensorRef& gain, const TensorRef& bias, const TensorRef& mean, const TensorRef& var,
                    double eps, std::int64_t channels, const TensorRef& like) {
    return {vector_of("gain", gain, channels, like), vector_of("bias", bias, channels, like),
            vector_of("mean", mean, channels, like), vector_of("var", var, channels, like), eps};
}

inline const dlpack::ExchangeApi& exchange_api(PyTypeObject* type) {
    const py::object capsule = py::handle(reinterpret_cast<PyObject*>(type)).attr("__dlpack_c_exchange_api__");
    void* api = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
    if (!api) throw py::error_already_set();
    if (static_cast<dlpack::ExchangeApi*>(api)->major != 1) throw std::runtime_error("torch's DLPack is not version 1");
    return *static_cast<dlpack::ExchangeApi*>(api);
}

}  // namespace pk::bindings

template <>
struct pybind11::detail::type_caster<pk::bindings::TensorRef> {
    PYBIND11_TYPE_CASTER(pk::bindings::TensorRef, const_name("torch.Tensor | None"));

    bool load(handle source, bool) {
        namespace dlpack = pk::dlpack;
        if (source.is_none()) return true;
        static const dlpack::ExchangeApi& api = pk::bindings::exchange_api(Py_TYPE(source.ptr()));
        dlpack::Tensor t;
        if (api.tensor_from_python(source.ptr(), &t) != 0) throw error_already_set();
        if (t.dims > value.max_dims) throw std::invalid_argument("a tensor must have at most 5 dimensions");
        value.data = static_cast<char*>(t.data) + t.byte_offset;
        value.given = true, value.dims = t.dims, value.code = t.code, value.bits = t.bits;
        bool empty = false;
        for (int i = 0; i < t.dims; ++i) {
            value.size[i] = t.size[i], value.stride[i] = t.stride[i];
            empty |= t.size[i] == 0;
        }
        // What has no storage, such as the zeros of autograd, says nothing else.
        if (!t.data && !empty) throw std::invalid_argument("a tensor has elements and no memory");
        return true;
    }
};
