// From run-time values to template arguments.
#pragma once

#include <type_traits>
#include <utility>

#include "common/check.h"

namespace pk {

/// Element types as integers, so that callers need no CUDA header.
enum class Dtype : int { f32 = 0, f16 = 1, bf16 = 2, f64 = 3 };

inline const char* name_of(Dtype dtype) {
    constexpr const char* names[] = {"float32", "float16", "bfloat16", "float64"};
    return names[static_cast<int>(dtype)];
}

constexpr int bytes_of(Dtype dtype) {
    constexpr int bytes[] = {4, 2, 2, 8};
    return bytes[static_cast<int>(dtype)];
}

inline bool is_dtype(int value) { return 0 <= value && value <= 3; }

template <class T>
struct Type {
    using type = T;
};

/// Call `body(std::bool_constant<value>{})`.
template <class Body>
Status visit_bool(bool value, Body&& body) {
    return value ? body(std::true_type{}) : body(std::false_type{});
}

/// Call `body(std::integral_constant<int, V>)` with the V of `Values` that equals `value`; an error where none does.
template <int... Values, class Body>
Status visit_int(const char* what, int value, Body&& body) {
    Status status = fail(what, " must be one of the compiled values, got ", value);
    (void)((value == Values && (status = body(std::integral_constant<int, Values>{}), true)) || ...);
    return status;
}

}  // namespace pk
