// What each op is called with, shared by the CPU loops and the GPU launches. Pointers, sizes and
// numbers only: no framework type crosses this line. Shapes stand beside each pointer; N samples of
// D elements, C classes.
#pragma once

#include <cstdint>

namespace fairtat {

enum class DType : int { float32 = 0, bfloat16 = 1, float16 = 2 };
enum class Norm : int { linf = 0, l2 = 1 };
enum class Init : int { uniform = 0, normal = 1, zero = 2 };
enum class LossKind : int { ce = 0, margin = 1, dlr = 2, kl = 3 };

constexpr int kMaxInnerDims = 8;

struct PgdInitArgs {
  float* out;      // (N, D)
  const float* x;  // (N, D), strides as out
  int64_t n;
  int dims;  // dimensions of a sample in logical order
  int64_t sizes[kMaxInnerDims];
  int64_t strides[kMaxInnerDims];
  const float* eps_n;  // (N,) or null: eps
  float eps;
  const int64_t* sample_ids;  // (N,) or null: 0, 1, ...
  uint64_t seed;
  uint32_t stream;
  Init init;
  Norm norm;
  float lo, hi;
  int threads;
};

struct PgdStepArgs {
  float* x_adv;      // (N, D)
  const void* grad;  // (N, D) of grad_dtype
  DType grad_dtype;
  const float* x;  // (N, D)
  int64_t n, d;
  const float* eps_n;  // (N,) or null: eps
  float eps;
  const float* step_n;  // (N,) or null: step
  float step;
  bool targeted;
  Norm norm;
  float lo, hi;
  void* model_input;  // (N, D) of input_dtype, or null
  DType input_dtype;
  const float* mean;  // (channels,) or null: no normalisation
  const float* std;   // (channels,) or null
  int64_t channels;
  int64_t channel_stride;  // element i of a sample has channel i / channel_stride % channels
  int64_t* zero_grad;      // (N,) or null
  int threads;
};

struct LogitLossArgs {
  const void* logits;  // (N, C) of logits_dtype
  DType logits_dtype;
  const int64_t* target;  // (N,)
  int64_t n, classes;
  LossKind kind;
  const int64_t* y;          // (N,) or null; selects the targeted DLR
  const void* clean_logits;  // (N, C) of clean_dtype; kl only
  DType clean_dtype;
  float* loss;     // (N,)
  void* dlogits;   // (N, C) of logits_dtype
  int64_t* pred;   // (N,)
  bool* reached;   // (N,)
  int threads;
};

struct SampleTargetsArgs {
  const int64_t* label;  // (N,)
  const int64_t* table;  // running sums, (C,) or (C, C)
  int64_t n, classes;
  bool by_label;              // the table has a row for each label
  const int64_t* sample_ids;  // (N,) or null
  uint64_t seed;
  uint32_t stream;
  int64_t* target;  // (N,)
};

struct ClassStatsArgs {
  int64_t* buffer;  // (7 + C, C)
  int64_t classes, n;
  const int64_t* pred;    // (N,)
  const int64_t* label;   // (N,)
  const float* loss;      // (N,) or null
  const int64_t* target;  // (N,) or null
};

// Between an image in channels-last order and its tiles of 4 x 4 pixels, which overlap by two (cpu/winograd.cpp).
struct WinogradArgs {
  const float* image;  // (N, height, width, channels): what tiles are cut from
  float* image_out;    // the same, written from tiles
  float* tiles;        // (16, N, rows, columns, channels)
  int64_t n, height, width, channels;
  int64_t rows, columns;
  int64_t pad_top, pad_left;  // zeros before the image's first row and column
  int threads;
};

}  // namespace fairtat
