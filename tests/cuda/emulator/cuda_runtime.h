// Enough of CUDA to run a kernel's own source on a CPU: every thread of a block is a fiber, and barriers, shuffles and
// shared memory behave as on a GPU. It proves indexing, reductions and arithmetic, not memory ordering or speed.
// Blocks run one after another, and a shuffle that some lane of its warp has left is an error.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned in_x = 1, unsigned in_y = 1, unsigned in_z = 1) : x(in_x), y(in_y), z(in_z) {}
};

struct alignas(16) float4 {
  float x, y, z, w;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

constexpr unsigned kWarpSize = 32;
constexpr size_t kStack = 64 * 1024;

enum class State { ready, at_barrier, at_shuffle, done };

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStack);
  State state = State::done;
  uint64_t slot = 0;
  unsigned barriers = 0, shuffles = 0;  // that it has waited at
};

struct Machine {
  std::vector<Fiber> fibers;
  ucontext_t scheduler;
  std::function<void()> body;
  std::vector<char> shared;
  bool failed = false;
  bool running = false;   // a kernel's code, not the host's
  unsigned launches = 0;  // before this one
};

inline Machine machine;

inline Fiber& self() { return machine.fibers[threadIdx.x]; }

inline void wait(State state) {
  const unsigned me = threadIdx.x;
  machine.fibers[me].state = state;
  ++(state == State::at_barrier ? machine.fibers[me].barriers : machine.fibers[me].shuffles);
  swapcontext(&machine.fibers[me].context, &machine.scheduler);
  threadIdx.x = me;
}

inline void enter() {
  machine.body();
  self().state = State::done;
}

// Let the fibers that wait at a barrier, or a warp that waits at a shuffle, go on; false if nobody can.
inline bool release(unsigned threads) {
  bool any = false;
  for (unsigned first = 0; first < threads; first += kWarpSize) {
    unsigned waiting = 0, gone = 0, lanes = 0;
    for (unsigned t = first; t < threads && t < first + kWarpSize; ++t, ++lanes) {
      waiting += machine.fibers[t].state == State::at_shuffle;
      gone += machine.fibers[t].state == State::done;
    }
    if (waiting > 0 && gone > 0) machine.failed = true;
    if (waiting == 0 || waiting < lanes) continue;
    for (unsigned t = first; t < first + lanes; ++t) machine.fibers[t].state = State::ready;
    any = true;
  }
  if (any) return true;
  for (unsigned t = 0; t < threads; ++t) {
    if (machine.fibers[t].state == State::at_shuffle) return false;
  }
  for (unsigned t = 0; t < threads; ++t) {
    if (machine.fibers[t].state != State::at_barrier) continue;
    machine.fibers[t].state = State::ready;
    any = true;
  }
  return any;
}

inline void run_block(unsigned threads) {
  for (char& byte : machine.shared) byte = static_cast<char>(0xa5);  // shared memory starts with anything in it
  for (unsigned t = 0; t < threads; ++t) {
    Fiber& fiber = machine.fibers[t];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = &machine.scheduler;
    makecontext(&fiber.context, enter, 0);
    fiber.state = State::ready;
    fiber.barriers = fiber.shuffles = 0;
  }
  do {
    for (unsigned t = 0; t < threads; ++t) {
      if (machine.fibers[t].state != State::ready) continue;
      threadIdx.x = t;
      swapcontext(&machine.scheduler, &machine.fibers[t].context);
    }
  } while (release(threads));
  for (unsigned t = 0; t < threads; ++t) machine.failed |= machine.fibers[t].state != State::done;
}

template <typename Kernel>
void launch(Kernel kernel, dim3 grid, unsigned threads, size_t shared = 0, void* = nullptr) {
  if (machine.fibers.size() < threads) machine.fibers.resize(threads);
  machine.shared.resize(shared);
  machine.body = kernel;
  gridDim = grid;
  blockDim = dim3(threads);
  machine.running = true;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        run_block(threads);
      }
    }
  }
  machine.running = false;
  ++machine.launches;
  if (machine.failed) throw std::runtime_error("threads of a block or warp diverged at a barrier or shuffle");
}

template <typename T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(machine.shared.data());
}

template <typename T>
T exchange(T value, unsigned from) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  memcpy(&self().slot, &value, sizeof value);
  wait(State::at_shuffle);
  T result;
  memcpy(&result, &machine.fibers[from].slot, sizeof result);
  wait(State::at_shuffle);  // everybody has read
  return result;
}

}  // namespace emulator

inline void __syncthreads() { emulator::wait(emulator::State::at_barrier); }

inline int __syncthreads_or(int predicate) {
  emulator::self().slot = static_cast<uint64_t>(predicate != 0);
  __syncthreads();
  int any = 0;
  for (unsigned t = 0; t < blockDim.x; ++t) any |= static_cast<int>(emulator::machine.fibers[t].slot);
  __syncthreads();
  return any;
}

template <typename T>
T __shfl_xor_sync(unsigned, T value, int lanes) {
  return emulator::exchange(value, threadIdx.x ^ static_cast<unsigned>(lanes));
}

template <typename T>
T __shfl_down_sync(unsigned, T value, int lanes) {
  const unsigned lane = threadIdx.x % emulator::kWarpSize + static_cast<unsigned>(lanes);
  return emulator::exchange(value, lane < emulator::kWarpSize ? threadIdx.x + static_cast<unsigned>(lanes) : threadIdx.x);
}

namespace emulator {
#ifdef FAIRTAT_RECORD
void note_add(const void* at, uint32_t bytes);
#else
inline void note_add(const void*, uint32_t) {}
#endif
}  // namespace emulator

template <typename T>
__attribute__((no_sanitize("thread"))) T atomicAdd(T* to, T value) {
  emulator::note_add(to, sizeof(T));
  const T found = *to;
  *to += value;
  return found;
}

// The hardware's exp2 as far from the value as it may be, to either side.
inline float rough_exp2(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return static_cast<float>(std::exp2(double{x}) * (1.0 + (bits % 2 == 0 ? 1 : -1) * 0x1p-22));
}
#define exp2f rough_exp2

inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }

using cudaError_t = int;
using cudaStream_t = void*;
constexpr cudaError_t cudaSuccess = 0;

#define CUDART_VERSION 13000

namespace emulator {

// What the runtime and the driver answer; tests of the host's side set it.
struct Host {
  int device = 0;
  bool context = true;  // of this thread
  int driver = CUDART_VERSION;
  cudaError_t image = cudaSuccess;  // whether the GPU can run the kernels
  std::vector<int> made_current;    // each creates a context where its device has none
};

inline Host host;

inline int current_context(void** context) {
  *context = host.context ? &host : nullptr;
  return 0;
}

}  // namespace emulator

inline cudaError_t cudaGetDevice(int* device) { return *device = emulator::host.device, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) {
  emulator::host.device = device;
  emulator::host.context = true;
  emulator::host.made_current.push_back(device);
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "emulated error"; }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = emulator::host.driver, cudaSuccess; }

struct cudaFuncAttributes {};
template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel) {
  return emulator::host.image;
}

enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess };
constexpr unsigned long long cudaEnableDefault = 0;
inline cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** entry, unsigned, unsigned long long,
                                                    cudaDriverEntryPointQueryResult*) {
  *entry = strcmp(name, "cuCtxGetCurrent") == 0 ? reinterpret_cast<void*>(&emulator::current_context) : nullptr;
  return cudaSuccess;
}
