// Every access to memory of the emulated kernels, written down. GCC's thread sanitizer puts a call before each load and
// store of what it compiles; in place of its library, these functions answer, and note who touched what.
#define FAIRTAT_RECORD
#include "cuda_runtime.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

// Of this library; the variables in shared memory lie between them.
extern char __bss_start __attribute__((visibility("hidden"))), _end __attribute__((visibility("hidden")));

namespace {

enum Kind : uint32_t { kRead, kWrite, kAdd };

struct Access {
  uint64_t address, site;  // site: where in the code
  uint32_t bytes, kind, block, thread;
  uint32_t barriers, meetings;  // of the thread before: barriers of its block; those, and shuffles of its warp
  uint32_t launch, shared;
};

std::vector<Access> accesses;
bool recording = false;

bool within(uint64_t address, const void* begin, size_t bytes) {
  const uint64_t first = reinterpret_cast<uint64_t>(begin);
  return first <= address && address < first + bytes;
}

bool is_own(uint64_t address) {
  using namespace emulator;
  if (within(address, &machine, sizeof machine) || within(address, &host, sizeof host)) return true;
  if (within(address, machine.fibers.data(), machine.fibers.size() * sizeof(Fiber))) return true;
  if (within(address, self().stack.data(), kStack)) return true;
  for (const dim3* place : {&threadIdx, &blockIdx, &blockDim, &gridDim}) {
    if (within(address, place, sizeof *place)) return true;
  }
  return false;
}

void note(const void* at, uint32_t bytes, Kind kind, const void* site) {
  const uint64_t address = reinterpret_cast<uint64_t>(at);
  if (!recording || !emulator::machine.running || is_own(address)) return;
  const emulator::Fiber& fiber = emulator::self();
  const bool shared = within(address, &__bss_start, static_cast<size_t>(&_end - &__bss_start)) ||
                      within(address, emulator::machine.shared.data(), emulator::machine.shared.size());
  const uint32_t block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  accesses.push_back({address, reinterpret_cast<uint64_t>(site), bytes, kind, block, threadIdx.x, fiber.barriers,
                      fiber.barriers + fiber.shuffles, emulator::machine.launches, shared});
}

}  // namespace

namespace emulator {
void note_add(const void* at, uint32_t bytes) { note(at, bytes, kAdd, __builtin_return_address(0)); }
}  // namespace emulator

#define ON_ACCESS(bytes)                                                                                          \
  extern "C" void __tsan_read##bytes(void* at) { note(at, bytes, kRead, __builtin_return_address(0)); }             \
  extern "C" void __tsan_write##bytes(void* at) { note(at, bytes, kWrite, __builtin_return_address(0)); }           \
  extern "C" void __tsan_unaligned_read##bytes(void* at) { note(at, bytes, kRead, __builtin_return_address(0)); }   \
  extern "C" void __tsan_unaligned_write##bytes(void* at) { note(at, bytes, kWrite, __builtin_return_address(0)); }
ON_ACCESS(1)
ON_ACCESS(2)
ON_ACCESS(4)
ON_ACCESS(8)
ON_ACCESS(16)

extern "C" void __tsan_read_range(void* at, size_t bytes) {
  note(at, static_cast<uint32_t>(bytes), kRead, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* at, size_t bytes) {
  note(at, static_cast<uint32_t>(bytes), kWrite, __builtin_return_address(0));
}
extern "C" void __tsan_vptr_update(void*, void*) {}
extern "C" void __tsan_init() {}

EXPORT void record(int on) {
  recording = on != 0;
  if (recording) accesses.clear();
}
EXPORT size_t recorded(const void** first) { return *first = accesses.data(), accesses.size(); }
EXPORT size_t access_bytes() { return sizeof(Access); }
