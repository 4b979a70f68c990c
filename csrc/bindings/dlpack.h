// The part of DLPack 1.x that is read here: torch hands out a table of functions that describe a tensor to C++.
// https://dmlc.github.io/dlpack; layouts are fixed by its major version.
#pragma once

#include <cstdint>

namespace pk::dlpack {

enum DeviceType : std::int32_t { cpu = 1, cuda = 2, rocm = 10 };
enum Code : std::uint8_t { signed_int = 0, unsigned_int = 1, floating = 2, bfloat = 4 };

struct Tensor {
    void* data;
    DeviceType device_type;
    std::int32_t device;
    std::int32_t dims;
    Code code;
    std::uint8_t bits;
    std::uint16_t lanes;
    std::int64_t* size;
    std::int64_t* stride;
    std::uint64_t byte_offset;
};

/// The value of the capsule `torch.Tensor.__dlpack_c_exchange_api__`. Functions return 0, or -1 with a Python error
/// set.
struct ExchangeApi {
    std::uint32_t major, minor;
    ExchangeApi* previous;  // of an earlier major version
    void* allocate;
    void* managed_from_python;
    void* managed_to_python;
    int (*tensor_from_python)(void* object, Tensor* out);  // borrowed: valid while the object lives and is not changed
    int (*current_stream)(DeviceType device_type, std::int32_t device, void** stream);
};

}  // namespace pk::dlpack
