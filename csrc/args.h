// What each kernel is called with, as a struct; ops.def lists them.
#pragma once

#include <cstdint>

namespace fairtat {

enum class DType : int { float32 = 0, bfloat16 = 1, float16 = 2 };
enum class Norm : int { linf = 0, l2 = 1, l1 = 2 };  // l1: a step on the CPU alone
enum class Init : int { uniform = 0, normal = 1, zero = 2 };
enum class LossKind : int { ce = 0, margin = 1, dlr = 2, kl = 3 };

constexpr int kMaxInnerDims = 8;

// The dimensions of a sample in logical order.
struct Layout {
  int dims;
  int64_t sizes[kMaxInnerDims];
  int64_t strides[kMaxInnerDims];
};

// An index that lies outside [0, C): which argument and which value. Found before anything is written.
struct BadIndex {
  const char* argument = nullptr;  // null: every index is in range
  int64_t value = 0;
};

#define ARGS(Type) struct Type {
#define FIELD(type, name) type name;
#define END };
#include "ops.def"

}  // namespace fairtat
