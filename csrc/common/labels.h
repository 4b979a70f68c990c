// Element types of label maps, as integers: callers need no CUDA header.
#pragma once

namespace pk {

enum class LabelType : int { u8 = 0, i16 = 1, i32 = 2, i64 = 3 };

inline bool is_label_type(LabelType type) { return LabelType::u8 <= type && type <= LabelType::i64; }

}  // namespace pk
