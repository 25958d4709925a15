// Draw a class other than the label from running sums of integer weights.
#pragma once

#include "math/philox.h"

namespace fairtat {
namespace FAIRTAT_ISA {

FAIRTAT_FN int64_t draw_target(const int64_t* row, int64_t classes, int64_t label, uint32_t word) {
  // Unsigned, for that wraps: a table that `target_table` has not made may hold anything, and the draw be any class.
  const uint64_t before = label > 0 ? static_cast<uint64_t>(row[label - 1]) : 0;
  const uint64_t own = static_cast<uint64_t>(row[label]) - before;
  const uint64_t others = static_cast<uint64_t>(row[classes - 1]) - own;
  uint64_t draw = (word * others) >> 32;
  draw += draw >= before ? own : 0;  // step over the label's own share
  // The first class whose running sum exceeds the draw: a search without branches, which a random draw would mislead.
  int64_t first = 0;
  for (int64_t left = classes; left > 1;) {
    const int64_t half = left / 2;
    first += static_cast<uint64_t>(row[first + half - 1]) <= draw ? half : 0;
    left -= half;
  }
  return first;
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
