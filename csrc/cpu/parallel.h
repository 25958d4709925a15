// Helpers that the CPU loops share.
#pragma once

#include "cpu/kernels.h"
#include "math/common.h"

namespace fairtat {
namespace FAIRTAT_ISA {

// Waking a second thread costs some microseconds: below this much work one thread is faster.
constexpr int64_t kParallelElements = 16384;

FAIRTAT_FN int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }

FAIRTAT_FN int team_size(int threads, int64_t elements, int64_t pieces) {
  if (elements < kParallelElements) return 1;
  return static_cast<int>(min_of(threads, pieces < 1 ? 1 : pieces));
}

FAIRTAT_FN BadIndex check_indices(const char* argument, const int64_t* index, int64_t n, int64_t classes) {
  // The common case is one vectorised pass; only a bad batch is searched for its first offender.
  // An index below 0, or one that leaves classes - 1 - index below 0, sets the sign bit; unsigned, for that wraps.
  const uint64_t last = static_cast<uint64_t>(classes - 1);
  uint64_t signs = 0;
  for (int64_t i = 0; i < n; ++i) signs |= static_cast<uint64_t>(index[i]) | (last - static_cast<uint64_t>(index[i]));
  if (signs >> 63) {
    for (int64_t i = 0; i < n; ++i) {
      if (index[i] < 0 || index[i] >= classes) return {argument, index[i]};
    }
  }
  return {};
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
