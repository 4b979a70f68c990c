// The driver's encoder, found at run time so that nothing links against the driver; its limits are checked here first,
// where the error can say which.
#include <cstring>

#include "common/platform.cuh"
#include "common/tensor_map.h"

#if defined(__CUDACC__)
#include <cuda.h>
#else
#include "hostsim/tensor_map.h"
#endif

namespace pk {

namespace {

Status check(const TensorBox& box) {
    const int bytes = bytes_of(box.dtype), row = box.box[0] * bytes, span = static_cast<int>(box.swizzle);
    PK_CHECK(reinterpret_cast<uintptr_t>(box.pointer) % 16 == 0, "a tensor map's pointer must be 16-byte aligned");
    PK_CHECK(2 <= box.rank && box.rank <= 5, "a tensor map has 2 to 5 dimensions, got ", box.rank);
    PK_CHECK(box.stride[0] == 1, "dimension 0 of a tensor map must be contiguous, got stride ", box.stride[0]);
    PK_CHECK(row % 16 == 0, "a row of a box must be a multiple of 16 bytes, got ", row);
    PK_CHECK(box.swizzle == Swizzle::none || row == span, "a row of a box swizzled over ", span,
             " bytes must be that long, got ", row);
    for (int i = 0; i < box.rank; ++i) {
        PK_CHECK(1 <= box.size[i] && box.size[i] <= 1LL << 32, "size ", box.size[i], " of dimension ", i,
                 " of a tensor map is not in 1 to 2^32");
        PK_CHECK(1 <= box.box[i] && box.box[i] <= 256, "box ", box.box[i], " of dimension ", i, " is not in 1 to 256");
        const int64_t step = box.stride[i] * bytes;
        PK_CHECK(i == 0 || (0 < step && step < 1LL << 40 && step % 16 == 0), "stride ", step, " of dimension ", i,
                 " must be a multiple of 16 bytes below 2^40");
    }
    return {};
}

#if defined(__CUDACC__)

Status encode(const TensorBox& box, TensorMap& map) {
    constexpr CUtensorMapDataType types[] = {CU_TENSOR_MAP_DATA_TYPE_FLOAT32, CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                                             CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, CU_TENSOR_MAP_DATA_TYPE_FLOAT64};
    static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));
    static void* const encoder = [] {
        void* found = nullptr;
        cudaDriverEntryPointQueryResult result;
        const cudaError_t error =
            cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
        return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? found : nullptr;
    }();
    PK_CHECK(encoder, "this driver has no tensor maps: cuTensorMapEncodeTiled of CUDA 12 is needed");
    cuuint64_t size[5], stride[4];
    cuuint32_t lengths[5], steps[5];
    for (int i = 0; i < box.rank; ++i) {
        size[i] = static_cast<cuuint64_t>(box.size[i]);
        lengths[i] = static_cast<cuuint32_t>(box.box[i]);
        steps[i] = 1;
        if (i) stride[i - 1] = static_cast<cuuint64_t>(box.stride[i]) * bytes_of(box.dtype);
    }
    const CUtensorMapSwizzle swizzle = box.swizzle == Swizzle::b32    ? CU_TENSOR_MAP_SWIZZLE_32B
                                       : box.swizzle == Swizzle::b64  ? CU_TENSOR_MAP_SWIZZLE_64B
                                       : box.swizzle == Swizzle::b128 ? CU_TENSOR_MAP_SWIZZLE_128B
                                                                      : CU_TENSOR_MAP_SWIZZLE_NONE;
    CUtensorMap encoded;
    const CUresult result = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(encoder)(
        &encoded, types[static_cast<int>(box.dtype)], static_cast<cuuint32_t>(box.rank), const_cast<void*>(box.pointer),
        size, stride, lengths, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    PK_CHECK(result == CUDA_SUCCESS, "the driver refused a tensor map: error ", static_cast<int>(result));
    std::memcpy(&map, &encoded, sizeof(map));
    return {};
}

#else

Status encode(const TensorBox& box, TensorMap& map) {
    PK_CHECK(hostsim::has_context, "the driver refused a tensor map: error 201");  // CUDA_ERROR_INVALID_CONTEXT
    const int bytes = bytes_of(box.dtype);
    hostsim::TensorMap encoded{box.pointer, box.rank, bytes, static_cast<int>(box.swizzle), {}, {}, {}};
    for (int i = 0; i < box.rank; ++i) {
        encoded.size[i] = box.size[i];
        encoded.step[i] = box.stride[i] * bytes;
        encoded.box[i] = static_cast<int16_t>(box.box[i]);
    }
    static_assert(sizeof(map) >= sizeof(encoded));
    std::memcpy(&map, &encoded, sizeof(encoded));
    return {};
}

#endif

}  // namespace

Status encode_tensor_map(const TensorBox& box, TensorMap& map) {
    PK_TRY(check(box));
    return encode(box, map);
}

}  // namespace pk
