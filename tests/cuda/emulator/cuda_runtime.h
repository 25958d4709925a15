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

struct Index {
  unsigned x = 0;
};

struct alignas(16) float4 {
  float x, y, z, w;
};

inline Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

constexpr unsigned kWarpSize = 32;
constexpr size_t kStack = 64 * 1024;

enum class State { ready, at_barrier, at_shuffle, done };

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStack);
  State state = State::done;
  uint64_t slot = 0;
};

struct Machine {
  std::vector<Fiber> fibers;
  ucontext_t scheduler;
  std::function<void()> body;
  std::vector<char> shared;
  bool failed = false;
};

inline Machine machine;

inline Fiber& self() { return machine.fibers[threadIdx.x]; }

inline void wait(State state) {
  const unsigned me = threadIdx.x;
  machine.fibers[me].state = state;
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
void launch(Kernel kernel, unsigned grid, unsigned threads, size_t shared = 0, void* = nullptr) {
  if (machine.fibers.size() < threads) machine.fibers.resize(threads);
  machine.shared.resize(shared);
  machine.body = kernel;
  gridDim.x = grid;
  blockDim.x = threads;
  for (unsigned b = 0; b < grid; ++b) {
    blockIdx.x = b;
    run_block(threads);
  }
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

inline unsigned atomicAdd(unsigned* to, unsigned value) {
  const unsigned found = *to;
  *to += value;
  return found;
}

inline unsigned long long atomicAdd(unsigned long long* to, unsigned long long value) {
  const unsigned long long before = *to;
  *to += value;
  return before;
}

using cudaError_t = int;
using cudaStream_t = void*;
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
