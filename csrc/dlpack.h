// The part of DLPack's C interface that csrc/signature.cpp reads: how a framework shows a tensor to native code. Layout
// and meaning are those of the specification, version 1 (https://dmlc.github.io/dlpack/latest/c_api.html).
#pragma once

#include <cstdint>

namespace fairtat {
namespace dlpack {

struct Device {
  int32_t type;  // kCpu or a kind of GPU
  int32_t id;
};

constexpr int32_t kCpu = 1;

struct DataType {
  uint8_t code;  // kInt and so on
  uint8_t bits;
  uint16_t lanes;
};

constexpr uint8_t kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4;

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;    // of the owner: valid as long as the tensor is
  int64_t* strides;  // in elements; null means contiguous
  uint64_t byte_offset;
};

// What a tensor type has in its attribute __dlpack_c_exchange_api__, a capsule of this name.
constexpr const char* kExchangeName = "dlpack_exchange_api";
constexpr uint32_t kMajorVersion = 1;

struct ExchangeHeader {
  uint32_t major, minor;
  ExchangeHeader* previous;
};

struct Exchange {
  ExchangeHeader header;
  void* allocate;
  void* managed_from_object;
  void* managed_to_object;
  int (*view_of_object)(void* object, Tensor* out);  // not owned; -1 with a Python error; the pointer may be null
  void* current_stream;
};

}  // namespace dlpack
}  // namespace fairtat
