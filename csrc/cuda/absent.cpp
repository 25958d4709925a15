// What stands in for the CUDA kernels in a build without them.
#include <stdexcept>

#include "cuda/kernels.h"

namespace fairtat {
namespace cuda {
namespace {

[[noreturn]] void refuse() {
  throw std::runtime_error("this build of fairtat has no CUDA kernels; build it with FAIRTAT_CUDA=1 and a CUDA compiler");
}

}  // namespace

#define OP(name, Type, Result) \
  void name(const Type&, Place) { refuse(); }
#include "ops.def"

std::string trouble(int) { refuse(); }

}  // namespace cuda
}  // namespace fairtat
