// Draw a class other than the label from running sums of integer weights.
#pragma once

#include "math/philox.h"

namespace fairtat {
namespace FAIRTAT_ISA {

FAIRTAT_FN int64_t draw_target(const int64_t* row, int64_t classes, int64_t label, uint32_t word) {
  const int64_t before = label > 0 ? row[label - 1] : 0;
  const int64_t own = row[label] - before;
  const uint64_t others = static_cast<uint64_t>(row[classes - 1] - own);
  int64_t draw = static_cast<int64_t>((word * others) >> 32);
  draw += draw >= before ? own : 0;  // step over the label's own share
  // The first class whose running sum exceeds the draw: a search without branches, which a random draw would mislead.
  int64_t first = 0;
  for (int64_t left = classes; left > 1;) {
    const int64_t half = left / 2;
    first += row[first + half - 1] <= draw ? half : 0;
    left -= half;
  }
  return first;
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
