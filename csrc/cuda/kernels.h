// The CUDA launches, one for each op: on the caller's device and stream, without a synchronisation.
#pragma once

#include <string>

#include "args.h"

namespace fairtat {
namespace cuda {

// Where to launch: the device of the tensors and the stream that the caller works on.
struct Place {
  int device;
  void* stream;  // cudaStream_t
};

// Each throws std::runtime_error where CUDA refuses the launch.
#define OP(name, Type, Result) void name(const Type& a, Place place);
#include "ops.def"

// Why the kernels cannot run on a GPU, or nothing.
std::string trouble(int device);

}  // namespace cuda
}  // namespace fairtat
