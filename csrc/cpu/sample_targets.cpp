#include "math/sample_targets.h"

#include "cpu/ops.h"
#include "cpu/parallel.h"

namespace fairtat {
namespace FAIRTAT_ISA {

namespace {

constexpr int64_t kBlock = 256;  // Philox words are drawn a block at a time, in a loop that vectorises

void draw_words(const SampleTargetsArgs& a, int64_t begin, int64_t n, uint32_t* __restrict words) {
  uint64_t ids[kBlock];
  for (int64_t i = 0; i < n; ++i) ids[i] = static_cast<uint64_t>(a.sample_ids ? a.sample_ids[begin + i] : begin + i);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) words[i] = philox(kTargetPosition, a.stream, ids[i], a.seed).w[0];
}

}  // namespace

BadIndex sample_targets(const SampleTargetsArgs& a) {
  const BadIndex bad = check_indices("label", a.label, a.n, a.classes);
  if (bad.argument != nullptr) return bad;
  uint32_t words[kBlock];
  for (int64_t begin = 0; begin < a.n; begin += kBlock) {
    const int64_t n = min_of(kBlock, a.n - begin);
    draw_words(a, begin, n, words);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t label = a.label[begin + i];
      const int64_t* row = a.by_label ? a.table + label * a.classes : a.table;
      a.target[begin + i] = draw_target(row, a.classes, label, words[i]);
    }
  }
  return bad;
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
