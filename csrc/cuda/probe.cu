// Whether the kernels can run here at all: asked once for each GPU, before the first launch.
#include "cuda/launch.h"

namespace fairtat {
namespace cuda {
namespace {

__global__ void probe_kernel() {}  // compiled for the same architectures as every other

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

}  // namespace

std::string trouble(int device) {
  int driver = 0;
  check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  if (driver == 0) return "no CUDA driver is installed";
  // A runtime runs on every driver of its major version.
  if (driver / 1000 < CUDART_VERSION / 1000) {
    return "the driver serves CUDA " + version(driver) + ", older than the CUDA " + version(CUDART_VERSION) +
           " that the kernels were built with: update the driver or build fairtat with an older compiler";
  }
  const DeviceGuard guard(device);
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, probe_kernel);
  if (error == cudaSuccess) return "";
  cudaGetLastError();  // the error is told here, not at the next launch
  return "the kernels were not built for GPU " + std::to_string(device) + " (" + cudaGetErrorString(error) +
         "): build fairtat with its architecture in CMAKE_CUDA_ARCHITECTURES";
}

}  // namespace cuda
}  // namespace fairtat
