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
  int64_t low = 0, high = classes - 1;
  while (low < high) {  // the first class whose running sum exceeds the draw
    const int64_t middle = (low + high) / 2;
    if (row[middle] > draw) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
