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

// A large step in l2 on CUDA is shared by blocks, each of which takes a part of a sample and leaves three sums.
constexpr int64_t kL2Part = 8192;  // elements, and the most that one block makes alone
inline int64_t l2_parts(int64_t d) { return d > kL2Part ? (d + kL2Part - 1) / kL2Part : 0; }
inline int64_t l2_sums(int64_t d) { return 3 * l2_parts(d); }

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
