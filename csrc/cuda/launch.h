// What every launch shares: the device guard, the error check, grid sizes and reductions over a block.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "cuda/kernels.h"
#include "math/common.h"

namespace fairtat {
namespace cuda {

using namespace FAIRTAT_ISA;

constexpr int kThreads = 256;
constexpr int kWarp = 32;

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// Makes the tensors' device current for a launch, and the caller's again afterwards.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    if (previous_ != device) check(cudaSetDevice(device), "cudaSetDevice");
    changed_ = previous_ != device;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

// Blocks for a grid-stride loop: enough to fill any chip, few enough that starting them costs nothing.
inline unsigned grid_for(int64_t items, int64_t per_block = kThreads) {
  const int64_t blocks = (items + per_block - 1) / per_block;
  constexpr int64_t kMost = 132 * 16;
  return static_cast<unsigned>(blocks < kMost ? blocks : kMost);
}

// Sums over a block in one fixed order: a tree within each warp, then one over the warps.
__device__ inline double block_sum(double value) {
  __shared__ double partial[kWarp];
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_down_sync(~0u, value, offset);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  __syncthreads();  // the previous sum has been read
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  if (warp == 0) {
    value = lane < (blockDim.x + kWarp - 1) / kWarp ? partial[lane] : 0.0;
    for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_down_sync(~0u, value, offset);
    if (lane == 0) partial[0] = value;
  }
  __syncthreads();
  return partial[0];
}

}  // namespace cuda
}  // namespace fairtat
