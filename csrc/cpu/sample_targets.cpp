#include "math/sample_targets.h"

#include "cpu/ops.h"
#include "cpu/parallel.h"

namespace fairtat {
namespace FAIRTAT_ISA {

BadIndex sample_targets(const SampleTargetsArgs& a) {
  const BadIndex bad = check_indices("label", a.label, a.n, a.classes);
  if (bad.argument != nullptr) return bad;
  for (int64_t s = 0; s < a.n; ++s) {
    const uint64_t id = static_cast<uint64_t>(a.sample_ids ? a.sample_ids[s] : s);
    const uint32_t word = philox(kTargetPosition, a.stream, id, a.seed).w[0];
    const int64_t* row = a.by_label ? a.table + a.label[s] * a.classes : a.table;
    a.target[s] = draw_target(row, a.classes, a.label[s], word);
  }
  return bad;
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
