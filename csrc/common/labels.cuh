// Class labels in the integer type that the caller has: 8-bit labels are an eighth of the bytes of 64-bit ones.
#pragma once

#include <cstdint>

#include "common/labels.h"
#include "common/platform.cuh"

namespace pk {

__device__ __forceinline__ int64_t load_label(const void* g_labels, LabelType type, long long i) {
    switch (type) {
        case LabelType::u8:
            return static_cast<const uint8_t*>(g_labels)[i];
        case LabelType::i16:
            return static_cast<const int16_t*>(g_labels)[i];
        case LabelType::i32:
            return static_cast<const int32_t*>(g_labels)[i];
        default:
            return static_cast<const int64_t*>(g_labels)[i];
    }
}

__device__ __forceinline__ void store_label(void* g_labels, LabelType type, long long i, int label) {
    switch (type) {
        case LabelType::u8:
            static_cast<uint8_t*>(g_labels)[i] = static_cast<uint8_t>(label);
            return;
        case LabelType::i16:
            static_cast<int16_t*>(g_labels)[i] = static_cast<int16_t>(label);
            return;
        case LabelType::i32:
            static_cast<int32_t*>(g_labels)[i] = label;
            return;
        default:
            static_cast<int64_t*>(g_labels)[i] = label;
    }
}

}  // namespace pk
