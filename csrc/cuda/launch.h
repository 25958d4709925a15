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

// Blocks of kThreads that fill a multiprocessor, for __launch_bounds__.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 750
constexpr int kFullBlocks = 4;
#elif defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 870 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)
constexpr int kFullBlocks = 6;
#else
constexpr int kFullBlocks = 8;
#endif

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// Whether this thread has a context. The driver is asked, for calls of the runtime can create one.
inline bool has_context() {
  void* entry = nullptr;
#if CUDART_VERSION >= 12050
  cudaDriverEntryPointQueryResult found;
  check(cudaGetDriverEntryPointByVersion("cuCtxGetCurrent", &entry, 12000, cudaEnableDefault, &found), "cuCtxGetCurrent");
#else
  check(cudaGetDriverEntryPoint("cuCtxGetCurrent", &entry, cudaEnableDefault), "cuCtxGetCurrent");
#endif
  void* context = nullptr;
  return entry != nullptr && reinterpret_cast<int (*)(void**)>(entry)(&context) == 0 && context != nullptr;
}

// Makes the tensors' device current for a launch, and the caller's again afterwards. A thread without a context has no
// device to go back to: making one current would create a context there, which takes hundreds of megabytes of GPU 0 for
// each process of a distributed run.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    if (previous_ == device) return;
    goes_back_ = has_context();
    check(cudaSetDevice(device), "cudaSetDevice");
  }
  ~DeviceGuard() {
    if (goes_back_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool goes_back_ = false;
};

// Calls launch(stream) on a call's device and stream, and raises what CUDA says against it.
template <typename Launch>
void launch_on(Place place, const char* name, Launch launch) {
  const DeviceGuard guard(place.device);
  launch(static_cast<cudaStream_t>(place.stream));
  check(cudaGetLastError(), name);
}

// Calls body with a value of the type that a dtype names.
template <typename Body>
void with_type(DType dtype, Body body) {
  switch (dtype) {
    case DType::float32: return body(float{});
    case DType::bfloat16: return body(BFloat16{});
    case DType::float16: return body(Float16{});
  }
}

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
